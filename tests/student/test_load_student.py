"""A student that is loaded alone samples the same clips, around one copy of the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles, Train
from fewstep.student.load_student import load_student
from fewstep.student.loading import Student
from fewstep.student.weights import is_whole
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.experts import every_network, parts_of
from fewstep.teacher.load_teacher import load_teacher
from tests.student.few_steps import train
from tests.tiny_pipelines import tiny_transformer

SIZE = VideoSize(9, 16, 16)
PROMPTS = ["a red ring", "a cross"]


def ask(teacher: Teacher, network: nn.Module | None) -> Tensor:
    z, times = teacher.noise([0, 1], teacher.latent_shape(*SIZE)), torch.tensor([0.9375, 0.4], dtype=torch.float64)
    return teacher.denoise(z, times, teacher.conditions(PROMPTS), network=network)


def stage_of(teacher: Teacher, folder: Path, mode: Train, experts: Collection[str] | None = None) -> Path:
    """A student that has learned something, as a finished stage."""
    roles = Roles(teacher, mode, rank=4, experts=experts)
    train(roles, ask)
    folder.mkdir()
    roles.save(folder)
    name = str(teacher.folder)
    SamplingContract.of(teacher, name, 4, roles.weights, SIZE, 1.0, "", 8.0, trained=roles.own).write(folder)
    return folder


def latents(student: Student) -> Tensor:
    teacher = student.teacher
    with torch.no_grad():
        return student.sample(teacher.noise([3, 4], teacher.latent_shape(*SIZE)), student.conditions_of_any(PROMPTS))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The folders of denoisers whose weights are read."""
    from diffusers import WanTransformer3DModel

    folders, usual = list[str](), WanTransformer3DModel.from_pretrained

    def noted(path: Any, *args: Any, **kwargs: Any) -> Any:
        folders.append(Path(path).name)
        return usual(path, *args, **kwargs)

    monkeypatch.setattr(WanTransformer3DModel, "from_pretrained", noted)
    yield folders


def test_of_a_whole_student_the_teachers_denoiser_is_not_read(
    tiny_wan_folder: Path, tmp_path: Path, read: list[str]
) -> None:
    stage = stage_of(load_teacher(tiny_wan_folder, device="cpu"), tmp_path / "stage", "full")
    expected = latents(load_student(stage, device="cpu"))
    read.clear()
    alone = load_student(stage, device="cpu", alone=True)
    assert read == ["stage"] and alone.network is alone.teacher.denoiser
    assert not any(parameter.requires_grad for parameter in alone.network.parameters())
    assert torch.equal(latents(alone), expected)


@pytest.mark.parametrize("mode", ["full", "lora"])
def test_experts_that_were_not_trained_are_the_teachers(
    tiny_experts_folder: Path, tmp_path: Path, read: list[str], mode: Train
) -> None:
    stage = stage_of(load_teacher(tiny_experts_folder, device="cpu"), tmp_path / "stage", mode, ["high"])
    expected = latents(load_student(stage, device="cpu"))
    read.clear()
    alone = load_student(stage, device="cpu", alone=True)
    own = {"full": "high", "lora": "transformer"}[mode]
    assert sorted(read) == sorted([own, "transformer_2"])
    assert parts_of(alone.network)["low"] is parts_of(alone.teacher.denoiser)["low"]
    assert torch.equal(latents(alone), expected)


def test_one_expert_whole_and_the_other_an_adapter(
    tiny_experts_folder: Path, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = load_teacher(tiny_experts_folder, device="cpu")
    stage = stage_of(teacher, tmp_path / "stage", "full", ["high"])
    adapter = stage_of(teacher, tmp_path / "adapter", "lora", ["low"])
    (adapter / "low").rename(stage / "low")
    expected = latents(load_student(stage, device="cpu"))
    alone = load_student(stage, device="cpu", alone=True)
    assert is_whole(stage / "high") and not is_whole(stage / "low")
    assert torch.equal(latents(alone), expected)


def test_another_teacher_is_refused_before_its_weights_are_read(
    tiny_wan_folder: Path, make_tiny_wan: Callable[..., None], tmp_path: Path, read: list[str]
) -> None:
    make_tiny_wan(tmp_path / "other", transformer=tiny_transformer(3))
    stage = stage_of(load_teacher(tiny_wan_folder, device="cpu"), tmp_path / "stage", "full")
    read.clear()
    with pytest.raises(ValueError, match="the student's teacher was"):
        load_student(stage, teacher=str(tmp_path / "other"), device="cpu", alone=True)
    assert not read


def test_a_loaded_teacher_stays_as_it_is(tiny_wan_folder: Path, tmp_path: Path) -> None:
    teacher = load_teacher(tiny_wan_folder, device="cpu")
    stage, before = stage_of(teacher, tmp_path / "stage", "full"), ask(teacher, None)
    student = load_student(stage, teacher=teacher, alone=True)
    assert student.network is not teacher.denoiser and torch.equal(ask(teacher, None), before)
    assert all(
        not parameter.is_meta for network in every_network(teacher.denoiser) for parameter in network.parameters()
    )
