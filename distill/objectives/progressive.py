"""Progressive distillation (arXiv 2202.00512): one student step lands where several of the supervisor's do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from fewstep.distill.objectives.base import STUDENT, Batch, Roles, Settings, Trainee
from fewstep.distill.objectives.regression import Regression, regress
from fewstep.distill.objectives.supervision import Lesson, Supervision
from fewstep.teacher.conditions import Conditions


class Progressive(Settings):
    """Regression of the supervisor's endpoint."""

    kind: Literal["progressive"] = "progressive"
    """Regression of the endpoint."""
    loss: Regression = "mse"
    """Mean squared error, or pseudo-Huber."""
    huber_c: PositiveFloat = 0.1
    """Where pseudo-Huber turns from squared to absolute, in units of the student's prediction."""


@dataclass(frozen=True)
class Taught:
    """A step of the supervisor's, and what its clips are conditioned on."""

    step: Lesson
    conditions: Conditions


class ProgressiveObjective:
    """Trains the student alone."""

    def __init__(self, settings: Progressive, supervision: Supervision) -> None:
        self.settings = settings
        self.supervision = supervision

    def players(self) -> dict[str, Trainee]:
        """None besides the student."""
        return {}

    def rounds(self, step: int) -> tuple[tuple[str, ...], ...]:
        """The student's turn."""
        return ((STUDENT,),)

    def lesson(self, turns: tuple[str, ...], batch: Batch, roles: Roles, keep_graph: bool) -> Taught:
        """A step of the supervisor's."""
        return Taught(self.supervision.lesson(batch, roles), batch.conditions)

    def loss(self, turn: str, lesson: Taught, roles: Roles, step: int) -> dict[str, Tensor]:
        """The endpoint's error in the student's own prediction."""
        teacher, taught = roles.teacher, lesson.step
        x0 = teacher.denoise(taught.z_t, taught.t, lesson.conditions, network=roles.student)
        target, own = taught.target(teacher.schedule), teacher.schedule_of(roles.student)
        kept = teacher.kept(lesson.conditions, x0)
        return {"loss": regress(own, x0, target, taught.t, self.settings.loss, self.settings.huber_c, kept)}
