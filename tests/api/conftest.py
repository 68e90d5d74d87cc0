"""A run that Python started, for all tests of the API."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import fewstep
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.teacher.load_teacher import load_teacher

STAGES: list[dict[str, Any]] = [
    {"teacher_steps": 4, "student_steps": 2, "guidance": 2.0, "steps": 2, "batch": 2, "lr": 0.05},
    {"teacher_steps": 2, "student_steps": 1, "steps": 1, "batch": 2, "lr": 0.05},
]


def tiny_recipe(teacher: Path, prompts: Path, **settings: Any) -> fewstep.Recipe:
    """Two stages of a step or two, on a few rollouts."""
    return fewstep.Recipe(
        teacher=teacher,
        device="cpu",
        data=fewstep.RolloutData(kind="rollouts", prompts=prompts, steps=2),
        logging=fewstep.Logging(tracker="none"),
        stages=tuple(fewstep.Stage(**stage, objective=fewstep.Progressive()) for stage in STAGES),
        **settings,
    )


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of three prompts."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("a ring\na cross\na box\n")
    return path


@pytest.fixture(scope="session")
def run(tiny_wan_folder: Path, prompts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a random teacher with a 2-step and a 1-step student; not to be changed."""
    return fewstep.distill(
        tiny_recipe(tiny_wan_folder, prompts), out=tmp_path_factory.mktemp("api") / "run", quiet=True
    )


@pytest.fixture(scope="session")
def make_stage(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(teacher's folder, train, steps) -> the folder of a student that was never trained but differs from it."""

    @cache
    def make(folder: Path, train: Any, steps: int) -> Path:
        teacher = load_teacher(folder, device="cpu")
        size = teacher.default_size()
        assert size is not None
        stage = tmp_path_factory.mktemp("stage")
        roles = Roles(teacher, train, rank=4, alpha=8)
        torch.manual_seed(5)
        for parameter in roles.average.values():
            parameter.add_(torch.randn_like(parameter) * 0.03)
        roles.save(stage)
        SamplingContract.of(teacher, str(folder), steps, train, size, 3.0, "", 8.0).write(stage)
        return stage

    return make


@pytest.fixture(scope="session")
def make_api_student(make_stage: Callable[..., Path], tiny_wan_folder: Path) -> Callable[..., Path]:
    """train -> such a student of four steps, of a Wan teacher."""
    return lambda train: make_stage(tiny_wan_folder, train, 4)
