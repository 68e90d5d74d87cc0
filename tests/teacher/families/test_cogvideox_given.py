"""CogVideoX of a first frame and of a control video, against diffusers' own pipelines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.student.export.base import EXACT
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.families.picture_noise import generator_of
from fewstep.teacher.given import Given, noise_given, to_pil
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from fewstep.teacher.source import VideoSize

PROMPT, NEGATIVE = "a red circle", "blurry"
SIZE = VideoSize(9, 16, 16)
ARGUMENTS = {"first": "image", "control": "control_video"}


def opened(folder: Path) -> tuple[Teacher, Given]:
    teacher = load_teacher(folder, device="cpu")
    return teacher, noise_given(teacher.given_sizes(SIZE))


def stock(teacher: Teacher, given: Given, z: Tensor, steps: int, guidance: float) -> Tensor:
    """What the pipeline makes of our noise; what is given decides how many frames in one, so it is not told."""
    pipeline: Any = getattr(diffusers, type(teacher.pipeline).__name__).from_pretrained(teacher.folder)
    pipeline.set_progress_bar_config(disable=True)
    ((name, video),) = given.items()
    called: dict[str, Any] = {ARGUMENTS[name]: to_pil(video[0], name), "height": 16, "width": 16}
    if name == "first":
        called |= {"num_frames": 9, "generator": generator_of(video[0])}
    return pipeline(
        prompt=PROMPT, negative_prompt=NEGATIVE, num_inference_steps=steps, guidance_scale=guidance,
        latents=z.transpose(1, 2), max_sequence_length=16, output_type="latent", return_dict=False, **called,
    )[0].transpose(1, 2)  # fmt: skip


@pytest.mark.parametrize("kind", ["image", "image-5b", "image-1.5", "control"])
def test_same_noise_gives_the_stock_latents(cogvideox_folders: Callable[[str], Path], kind: str) -> None:
    teacher, given = opened(cogvideox_folders(kind))
    z = teacher.noise([5], teacher.latent_shape(*SIZE))
    conditions = teacher.conditions([PROMPT], NEGATIVE, SIZE, given)
    for steps, guidance in ((1, 1.0), (4, 1.0), (4, 6.0)):
        actual = rollout(teacher, z, conditions, teacher.schedule.grid(steps), guidance)
        expected = stock(teacher, given, z, steps, guidance)
        assert actual.shape == expected.shape
        assert float((actual - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("kind", ["image-1.5", "control"])
def test_both_branches_see_what_is_given(cogvideox_folders: Callable[[str], Path], kind: str) -> None:
    teacher, given = opened(cogvideox_folders(kind))
    black = {name: torch.zeros_like(video) for name, video in given.items()}
    one, other = (teacher.conditions([PROMPT], NEGATIVE, SIZE, what) for what in (given, black))
    z, every = teacher.noise([0], teacher.latent_shape(*SIZE)).repeat(2, 1, 1, 1, 1), torch.ones(1, dtype=torch.bool)
    (u, c), (v, d) = (teacher.predict(z, 0.7, conditions.branches(every)) for conditions in (one, other))
    assert float((u - v).abs().max()) > 1e-3 and float((c - d).abs().max()) > 1e-3


def test_newer_denoisers_are_told_the_pipelines_offset(
    cogvideox_folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher, given = opened(cogvideox_folders("image-1.5"))
    conditions: Conditions = teacher.conditions([PROMPT], None, SIZE, given)
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    before = teacher.predict(z, 0.7, conditions)
    monkeypatch.setattr("fewstep.teacher.families.cogvideox.OFFSET", 0.0)
    assert float((teacher.predict(z, 0.7, conditions) - before).abs().max()) > 1e-3


def test_each_picture_has_its_own_draw_whatever_stands_beside_it(cogvideox_folders: Callable[[str], Path]) -> None:
    teacher, _ = opened(cogvideox_folders("image"))
    both = noise_given(teacher.given_sizes(SIZE), 2)
    actual = teacher.conditions([PROMPT] * 2, None, SIZE, both).shared["beside"]
    second = teacher.conditions([PROMPT], None, SIZE, {"first": both["first"][1:]}).shared["beside"]
    torch.testing.assert_close(actual[1:], second)
    mode = teacher.pipeline.vae.encode(both["first"].float() / 127.5 - 1).latent_dist.mode()
    assert not torch.allclose(actual, mode * teacher.pipeline.vae.config.scaling_factor, atol=1e-3)


def test_learned_positions_are_of_one_size(cogvideox_folders: Callable[[str], Path]) -> None:
    teacher = load_teacher(cogvideox_folders("image-5b"), device="cpu")
    assert teacher.latent_shape(*SIZE) == (4, 3, 2, 2)
    for size in ((9, 32, 16), (17, 16, 16)):
        with pytest.raises(ValueError, match=r"has learned positions for \(9, 16, 16\) alone, use that size"):
            teacher.latent_shape(*size)


def test_a_control_pipeline_of_groups_of_frames_is_refused(cogvideox_folders: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match=r"sees latent frames in groups .*: use one of 1\.0 or 1\.1"):
        load_teacher(cogvideox_folders("control-1.5"), device="cpu")


@pytest.mark.parametrize(("kind", "name"), [("image", "first"), ("control", "control")])
def test_what_is_missing_is_named(cogvideox_folders: Callable[[str], Path], kind: str, name: str) -> None:
    teacher = load_teacher(cogvideox_folders(kind), device="cpu")
    with pytest.raises(ValueError, match=f"makes clips from {name}, and {name} is missing"):
        teacher.conditions([PROMPT], "", SIZE, {})


def test_a_checkpoint_that_names_another_pipeline_is_told_so(
    cogvideox_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """As alibaba-pai/CogVideoX-Fun-V1.1-5b-Control does."""
    folder = shutil.copytree(cogvideox_folders("control"), tmp_path / "fun")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "CogVideoXPipeline"}))
    with pytest.raises(
        ValueError, match="takes 8 channels, and that of a CogVideoXPipeline takes 4: write CogVideoXFun"
    ):
        load_teacher(folder, device="cpu")


@pytest.mark.parametrize("kind", ["image-1.5", "control"])
def test_an_adapter_leaves_as_a_lora_that_the_pipeline_loads(
    cogvideox_folders: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    teacher, given = opened(cogvideox_folders(kind))
    roles = Roles(teacher, "lora", rank=2, alpha=2)
    for parameter in roles.average.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    roles.save(tmp_path)
    teacher.take(tuple(given))
    SamplingContract.of(teacher, str(teacher.folder), 2, "lora", SIZE, 6.0, NEGATIVE, 8.0).write(tmp_path)
    assert write_export(load_student(tmp_path, device="cpu"), "lora", tmp_path / "lora").relative_error < EXACT
