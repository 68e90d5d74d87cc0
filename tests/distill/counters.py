"""Stages of tiny teachers whose steps are counted on paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fewstep.distill.recipe import Recipe
from fewstep.distill.step_cost import StepCounter
from fewstep.teacher.base import VideoSize
from fewstep.teacher.outline import outline_teacher

PROMPT = "a red ball rolls slowly across a wooden table"
PENALTIES = {"r1": 0.01, "r2": 0.01}


def recipe_of(
    folder: Path,
    train: str = "lora",
    backbone: str = "frozen",
    batch: int = 2,
    penalties: Mapping[str, float] | None = PENALTIES,
    **more: object,
) -> Recipe:
    """An adversarial stage of so many clips; penalties: None for the objective's own."""
    stage = {"name": "judged", "teacher_steps": 4, "student_steps": 2, "steps": 4, "batch": batch}
    discriminator = {"width": 8, "backbone": backbone}
    judged = {"kind": "adversarial", "warmup": 0, "discriminator": discriminator, **(penalties or {})}
    data = {"kind": "rollouts", "prompts": "prompts.txt"}
    values = {
        "teacher": str(folder),
        "out": "run",
        "device": "cpu",
        "data": data,
        "student": {"train": train, "lora": {"rank": 2}},
    }
    return Recipe.model_validate(values | {"stages": [stage | {"objective": judged}]} | more)


def counter_of(recipe: Recipe, num_processes: int = 1) -> tuple[StepCounter, VideoSize]:
    teacher = outline_teacher(recipe.teacher).teacher
    size = teacher.default_size()
    assert size is not None
    teacher.use_size(size)
    tokens = teacher.count_tokens([PROMPT])[0] or None
    return StepCounter(teacher, size, "float32", tokens, num_processes), size
