"""A dataset of the tiny teacher's own rollouts, and a stage that learns from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.distill.data import make_data
from fewstep.distill.settings import RolloutData
from fewstep.teacher.base import Teacher, VideoSize
from tests.distill.one_stage import Case


@pytest.fixture(scope="session")
def tiny_dataset(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen rollouts; not to be changed."""
    return rollouts(tiny_teacher, tmp_path_factory.mktemp("tiny-data"), 16)


@pytest.fixture(scope="session")
def tiny_experts_dataset(tiny_experts: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rollouts of the teacher with two experts; not to be changed."""
    return rollouts(tiny_experts, tmp_path_factory.mktemp("tiny-experts-data"), 8)


def rollouts(teacher: Teacher, folder: Path, num: int, width: int = 16) -> Path:
    """A dataset of so many clips by this teacher."""
    (folder / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(num)))
    settings = RolloutData(kind="rollouts", prompts=folder / "prompts.txt", steps=4)
    return make_data(settings, teacher, "tiny", VideoSize(9, 16, width), folder / "data", lambda done, total: None)


@pytest.fixture
def case(tiny_teacher: Teacher, tiny_dataset: Path, tmp_path: Path) -> Case:
    (tmp_path / "run").mkdir()
    return Case(tiny_teacher, tiny_dataset, tmp_path / "run")
