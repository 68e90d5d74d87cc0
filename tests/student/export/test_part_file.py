"""The file of a motion module that users of other programs share."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter
from safetensors.torch import load_file

from fewstep.student.export.base import Options
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student

AUTHORS = re.compile(
    r"((down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+\.temporal_transformer\."
    r"((norm|proj_in|proj_out)\.(weight|bias)|transformer_blocks\.0\."
    r"(attention_blocks\.[01]\.(to_[qkv]\.weight|to_out\.0\.(weight|bias)|pos_encoder\.pe)"
    r"|norms\.[01]\.(weight|bias)|ff_norm\.(weight|bias)|ff\.net\.(0\.proj|2)\.(weight|bias)))"
)


@pytest.fixture
def student(make_student: Callable[..., Student]) -> Student:
    """One whose motion modules alone differ from its teacher's."""
    whole = make_student("animatediff", "full")
    state = {n: x.clone() for n, x in whole.teacher.denoiser.state_dict().items()}
    moved = {n: x + 0.01 for n, x in state.items() if "motion_modules" in n and not n.endswith(".pe")}
    network = type(whole.network).from_config(whole.network.config)  # type: ignore[attr-defined]
    network.load_state_dict({**state, **moved})
    return replace(whole, network=network)


@pytest.mark.parametrize("to", ["part", "diffusers"])
def test_it_lies_beside_what_diffusers_loads(student: Student, tmp_path: Path, to: str) -> None:
    done = write_export(student, to, tmp_path / "out")
    file = done.folder / "original" / "fewstep-4step-motion.safetensors"
    assert any("original/fewstep-4step-motion.safetensors is its MotionAdapter" in note for note in done.notes)
    state = load_file(file)
    assert not [name for name in state if AUTHORS.fullmatch(name) is None]
    assert {x.shape[:2] for name, x in state.items() if name.endswith("pos_encoder.pe")} == {(1, 32)}
    back = MotionAdapter.from_single_file(str(file), config=str(file.parent), local_files_only=True)
    own = student.network.state_dict()
    assert all(torch.equal(x, own[name]) for name, x in back.state_dict().items())


def test_a_rounded_pipeline_has_it_beside_in_the_same_precision(student: Student, tmp_path: Path) -> None:
    done = write_export(student, "diffusers", tmp_path / "out", Options(precision="bfloat16"))
    state = load_file(done.folder / "original" / "fewstep-4step-motion.safetensors")
    assert {x.dtype for name, x in state.items() if not name.endswith("pos_encoder.pe")} == {torch.bfloat16}


def test_of_a_student_that_is_more_there_is_none(make_student: Callable[..., Student], tmp_path: Path) -> None:
    done = write_export(make_student("animatediff", "full"), "diffusers", tmp_path / "out")
    assert not (done.folder / "original").exists()
