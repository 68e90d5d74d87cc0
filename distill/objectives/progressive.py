"""Progressive distillation (arXiv 2202.00512): one student step lands where several of the supervisor's do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from fewstep.distill.calls import Calls, PartCalls
from fewstep.distill.objectives.base import STUDENT, Batch, NetworkRoles, Trainee
from fewstep.distill.objectives.objective_settings import HeldParameters, ObjectiveSettings
from fewstep.distill.objectives.regression import Regression, regress
from fewstep.distill.objectives.supervision import Lesson, Supervision
from fewstep.teacher.bases import Kinds
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.limited import Amount

if TYPE_CHECKING:
    from fewstep.distill.settings import Stage


class Progressive(ObjectiveSettings):
    """Regression of the supervisor's endpoint."""

    default_betas = (0.9, 0.999)
    is_regression = True
    splits_clips = True

    kind: Literal["progressive"] = "progressive"
    """Regression of the endpoint."""
    loss: Regression = "mse"
    """Mean squared error, or pseudo-Huber."""
    huber_c: Amount = 0.1
    """Where pseudo-Huber turns from squared to absolute, in units of the student's prediction."""

    @property
    def phase(self) -> str:
        """The loss: tables hold others against `mse`."""
        return self.loss

    def build(self, supervision: Supervision, roles: NetworkRoles, any_batch: Batch) -> ProgressiveObjective:
        """The objective of a stage."""
        return ProgressiveObjective(self, supervision)

    def calls(self, stage: Stage, parts: PartCalls) -> Calls:
        """The supervisor's way and the student's step."""
        return (parts.lesson + parts.learn) * stage.steps

    def holds(self, network: nn.Module, kinds: Kinds | None = None) -> dict[str, HeldParameters]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class SupervisedStep:
    """A step of the supervisor's, and what its clips are conditioned on."""

    step: Lesson
    conditions: Conditions


class ProgressiveObjective:
    """Trains the student alone."""

    def __init__(self, settings: Progressive, supervision: Supervision) -> None:
        self.settings = settings
        self.supervision = supervision

    def trainees(self) -> dict[str, Trainee]:
        """None besides the student."""
        return {}

    def rounds(self, step: int) -> tuple[tuple[str, ...], ...]:
        """The student step."""
        return ((STUDENT,),)

    def lesson(self, turns: tuple[str, ...], batch: Batch, roles: NetworkRoles, keep_graph: bool) -> SupervisedStep:
        """A step of the supervisor's."""
        return SupervisedStep(self.supervision.lesson(batch, roles), batch.conditions)

    def loss(self, turn: str, lesson: SupervisedStep, roles: NetworkRoles, step: int) -> dict[str, Tensor]:
        """The endpoint's error in the student's own prediction."""
        teacher, supervised = roles.teacher, lesson.step
        x0 = teacher.denoise(supervised.z_t, supervised.t, lesson.conditions, network=roles.student)
        # x~: the x0 with which a single DDIM step from z_t lands on z_s (arXiv 2202.00512, Alg. 2)
        target, own = supervised.target(teacher.schedule), teacher.schedule_of(roles.student)
        kept = teacher.kept(lesson.conditions, x0)
        return {"loss": regress(own, x0, target, supervised.t, self.settings.loss, self.settings.huber_c, kept)}

    def watched(self) -> dict[str, float]:
        """Nothing."""
        return {}
