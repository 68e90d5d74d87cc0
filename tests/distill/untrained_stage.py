"""Stages of a tiny teacher as a benchmark makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator

from fewstep.distill.recipe import Recipe, RolloutData
from fewstep.distill.trainer import Trainer
from fewstep.distill.untrained import untrained_trainer
from fewstep.teacher.base import Teacher

ADVERSARIAL = {"kind": "adversarial", "warmup": 3, "penalty_every": 2, "discriminator": {"width": 8}}


def one_stage(objective: dict[str, Any] | None = None, train: str = "full", **stage: Any) -> Recipe:
    """A recipe whose last stage is this one; those before it are regressions to as many steps as it starts from."""
    settings = {"teacher_steps": 4, "student_steps": 2, "steps": 6, "batch": 4, "lr": 1e-3}
    last = settings | {"objective": objective or {"kind": "progressive"}} | stage
    first = settings | {"teacher_steps": 8, "student_steps": 4, "objective": {"kind": "progressive"}}
    return Recipe.model_validate(
        {
            "data": RolloutData(kind="rollouts", prompts=Path("none.txt")),
            "student": {"train": train, "lora": {"rank": 4}},
            "stages": [first, last],
        }
    )


def untrained(teacher: Teacher, recipe: Recipe, index: int = -1) -> Trainer:
    """A stage of the recipe, the last by default."""
    conditions = teacher.conditions(["a red ring", "a blue cross grows", "a star"])
    index, size = index % len(recipe.stages), teacher.default_size()
    assert size is not None
    return untrained_trainer(recipe, index, teacher, conditions, size, Accelerator(cpu=True), 100)


class Ticks:
    """A clock that is a second later whenever it is read."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now
