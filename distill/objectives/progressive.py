"""Progressive distillation (arXiv 2202.00512): one student step lands where several of the supervisor's do."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat
from torch import Tensor

from fewstep.distill.objectives.base import STUDENT, Batch, Roles, Settings, Trainee
from fewstep.distill.objectives.regression import Regression, regress
from fewstep.distill.objectives.supervision import Supervision


class Progressive(Settings):
    """Regression of the supervisor's endpoint."""

    kind: Literal["progressive"] = "progressive"
    """Regression of the endpoint."""
    loss: Regression = "mse"
    """Mean squared error, or pseudo-Huber."""
    huber_c: PositiveFloat = 0.1
    """Where pseudo-Huber turns from squared to absolute, in units of the student's prediction."""


class ProgressiveObjective:
    """Trains the student alone."""

    def __init__(self, settings: Progressive, supervision: Supervision) -> None:
        self.settings = settings
        self.supervision = supervision

    def players(self) -> dict[str, Trainee]:
        """None beside the student."""
        return {}

    def turns(self, step: int) -> tuple[str, ...]:
        """The student's, always."""
        return (STUDENT,)

    def loss(self, turn: str, batch: Batch, roles: Roles, step: int) -> dict[str, Tensor]:
        """The endpoint's error in the student's own prediction."""
        teacher, lesson = roles.teacher, self.supervision.lesson(batch, roles)
        x0 = teacher.denoise(lesson.z_t, lesson.t, batch.conditions, network=roles.student)
        target = lesson.target(teacher.schedule)
        own = teacher.schedule_of(roles.student)
        return {"loss": regress(own, x0, target, lesson.t, self.settings.loss, self.settings.huber_c)}
