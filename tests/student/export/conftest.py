"""Students that were never trained but differ from their teachers, and their exports, each made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel

from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles, Train
from fewstep.student.export.base import Exported
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.student.loading import Student
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.schedule import Prediction
from tests.conftest import saved_once
from tests.tiny_pipelines import tiny_wan22_5b

FAMILIES = ("wan", "cogvideox", "animatediff")


@pytest.fixture(scope="session")
def make_student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Student]:
    """(family, train, steps = 4, prediction = the teacher's, LoRA's targets = all) -> a student of that family's tiny
    teacher, made once; its stage's folder is next to the teacher's."""

    @cache
    def make(
        family: str,
        train: Train,
        steps: int = 4,
        prediction: Prediction | None = None,
        targets: tuple[str, ...] | None = None,
    ) -> Student:
        folder: Path = request.getfixturevalue(f"tiny_{family}_folder")
        teacher = load_teacher(folder, device="cpu")
        size = teacher.default_size()
        assert size is not None
        stage = tmp_path_factory.mktemp(f"{family}-{train}")
        torch.manual_seed(5)  # before: adapters begin at random
        roles = Roles(teacher, train, rank=4, alpha=8, targets=targets)
        for parameter in roles.average.values():
            parameter.add_(torch.randn_like(parameter) * 0.03)
        roles.save(stage)
        SamplingContract.of(teacher, str(folder), steps, train, size, 3.0, "", 8.0, prediction).write(stage)
        return load_student(stage, device="cpu")

    return make


@pytest.fixture(scope="session")
def make_export(
    make_student: Callable[..., Student], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Exported]:
    """(family, train, format) -> the export of that student, made once and not to be changed."""

    @cache
    def make(family: str, train: Train, to: str) -> Exported:
        return write_export(make_student(family, train), to, tmp_path_factory.mktemp("exports") / to)

    return make


@pytest.fixture(scope="session")
def tiny_wan32_folder(make_tiny_wan: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Wan teacher of two blocks and of widths that 32 divides, as GGUF's blocks want them."""
    folder = tmp_path_factory.mktemp("tiny-wan32")
    make_tiny_wan(folder)
    old: Any = WanTransformer3DModel.from_pretrained(folder / "transformer")
    torch.manual_seed(1)
    new: Any = WanTransformer3DModel.from_config({**old.config, "attention_head_dim": 32, "num_layers": 2})
    for parameter in new.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    new.save_pretrained(folder / "transformer")
    return folder


tiny_wan22_folder = saved_once("tiny-wan22-5b", tiny_wan22_5b)


@pytest.fixture(scope="session")
def tiny_cogvideox1_folder(make_tiny_cogvideox: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CogVideoX teacher of one block."""
    folder = tmp_path_factory.mktemp("tiny-cogvideox1")
    make_tiny_cogvideox(folder, num_layers=1)
    return folder
