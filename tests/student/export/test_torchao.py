"""Pipelines with weights of torchao: diffusers loads them bit for bit, and what is not opened."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fewstep.student.export.base import Exported, Options, Written, find_format
from fewstep.student.export.precision import stored_precision
from fewstep.student.export.write_export import write_export
from fewstep.student.few_bits import block_linears
from fewstep.student.loading import Student
from fewstep.student.sampler import Sampler, SamplingOptions, open_sampler, student_sampler
from fewstep.teacher.precision import stays_exact

pytest.importorskip("torchao", reason="the extra fewstep[quant] is not installed")
FORMATS = {"torchao-int8": torch.int8, "torchao-fp8": torch.float8_e4m3fn}


def latents(sampler: Sampler) -> Tensor:
    return sampler.sample(sampler.noise([7, 8]), sampler.conditions(["a ring", "two dots"]))


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("to", ["torchao-int8", pytest.param("torchao-fp8", marks=pytest.mark.slow)])
def test_diffusers_loads_it_and_so_do_we(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], to: str
) -> None:
    student, exported = make_student("wan32", "lora"), make_export("wan32", "lora", to)
    tolerance = find_format(to).tolerance
    assert 0 < exported.relative_error <= tolerance and exported.motion is not None
    own, back = student_sampler(student, "own", SamplingOptions()), open_sampler(exported.folder, device="cpu")
    assert back.contract is not None and back.contract.differences(student.contract) == []
    assert 0 < difference(latents(back), latents(own)) < 2 * tolerance
    around = open_sampler(exported.folder, teacher=student.teacher)
    assert difference(latents(around), latents(back)) < 1e-5
    assert not json.loads((exported.folder / "transformer" / "config.json").read_text())["_name_or_path"]
    loaded: Any = WanTransformer3DModel.from_pretrained(exported.folder / "transformer")
    dtypes = {getattr(m.weight, "qdata", m.weight).dtype for m in loaded.modules() if isinstance(m, torch.nn.Linear)}
    assert FORMATS[to] in dtypes and len(dtypes) > 1  # embeddings and head stay as they were


@pytest.mark.parametrize("family", [pytest.param("hunyuan_video", marks=pytest.mark.slow), "kandinsky"])
def test_just_the_layers_that_the_note_counts_are_rounded(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], family: str
) -> None:
    """Layers outside of blocks may have the same last name as one inside, and some are kept in float32 by diffusers."""
    student, exported = make_student(family, "full"), make_export(family, "full", "torchao-int8")
    network: Any = student.teacher.denoiser
    loaded: Any = type(network).from_pretrained(exported.folder / "transformer")
    counted = sum(hasattr(m.weight, "qdata") for m in loaded.modules() if isinstance(m, torch.nn.Linear))
    assert exported.notes[0].startswith(f"{counted} of the ") and counted > 0
    in_blocks = block_linears(student.teacher, network)
    assert f" of the {sum(not stays_exact(network, name) for name in in_blocks)} linear layers" in exported.notes[0]
    card = (exported.folder / "README.md").read_text()
    assert "weights that are not 8-bit in float32" in card and "Its weights that are not 8-bit are in float32" in card


@pytest.mark.parametrize(
    ("family", "train"), [("cogvideox1", "full"), pytest.param("animatediff", "lora", marks=pytest.mark.slow)]
)
def test_other_families(make_export: Callable[..., Exported], family: str, train: str) -> None:
    exported = make_export(family, train, "torchao-int8")
    assert 0 < exported.relative_error <= 1e-2
    assert torch.isfinite(latents(open_sampler(exported.folder, device="cpu"))).all()


@pytest.mark.parametrize("to", FORMATS)
def test_the_snippet_runs(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    exported, student = make_export("wan32", "lora", to), make_student("wan32", "lora")
    folder = exported.folder
    monkeypatch.chdir(folder)
    exec(find_format(to).snippet(student, Written(precision=exported.precision)), {})
    assert (folder / "clip.gif").stat().st_size > 0


def test_what_is_not_whole_or_of_another_student_is_refused(
    make_export: Callable[..., Exported], make_student: Callable[..., Student], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(make_export("wan32", "lora", "torchao-fp8").folder, tmp_path / "out"))
    (weights,) = (folder / "transformer").glob("*.safetensors")
    whole = weights.read_bytes()
    for length in (5, 3000, -50):
        weights.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is cut off"):
            open_sampler(folder, device="cpu")
    weights.write_bytes(whole)
    shutil.copytree(
        make_student("wan", "full").teacher.folder / "transformer", folder / "transformer", dirs_exist_ok=True
    )
    with pytest.raises(ValueError, match="transformer holds no weights of torchao: export the student again"):
        open_sampler(folder, device="cpu")
    (folder / "contract.json").unlink()
    with pytest.raises(ValueError, match=r"has no contract.json"):
        open_sampler(folder, device="cpu")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ValueError, match=r"torchao-fp8 needs torchao .*: pip install 'fewstep\[quant\]'"):
        find_format("torchao-fp8").check_needs()


def test_the_rest_may_be_in_bfloat16(make_student: Callable[..., Student], tmp_path: Path) -> None:
    done = write_export(make_student("wan32", "lora"), "torchao-int8", tmp_path / "out", Options(precision="bfloat16"))
    assert 0 < done.relative_error < 0.2
    assert stored_precision(done.folder / "transformer") == "bfloat16"
    assert torch.isfinite(latents(open_sampler(done.folder, device="cpu"))).all()
    assert 'from_pretrained(".", dtype=torch.bfloat16)' in (done.folder / "README.md").read_text()
