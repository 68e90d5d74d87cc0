"""What a discriminator sees: what counts as real, and which output of the student is compared with it.

The published recipe compares the student's endpoint with the supervisor's (arXiv 2402.13929). Others compare clips with
clips: the x0 of one step (LADD, arXiv 2403.12015), or the end of the student's own chain (DMD2, arXiv 2405.14867; APT,
arXiv 2501.08316).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fewstep.distill.objectives.base import Batch, NetworkRoles
from fewstep.distill.objectives.supervision import Lesson, StudentStep, Supervision
from fewstep.teacher.rollout import integrate, rollout
from fewstep.teacher.schedule import NoiseSchedule

Real = Literal["supervisor", "clips", "clips_at_data"]
Judges = Literal["endpoint", "clip", "sample"]
Through = Literal["all", "last", "drawn"]

_AT_DATA = 1e-9  # times below are data


@dataclass(frozen=True)
class Subject:
    """How the two sides of the comparison are made; see `Adversarial` for the three settings."""

    real: Real
    judges: Judges
    through: Through

    def needs_supervisor(self, s: Tensor) -> bool:
        """Whether what is real for steps that end at s (B,) is the supervisor's."""
        ends_in_data = self.judges == "sample" or bool((s < _AT_DATA).all())
        return self.real == "supervisor" or (self.real == "clips_at_data" and not ends_in_data)

    def asks_supervisor(self, student_steps: int) -> bool:
        """Whether what is real for any step of a student with this many is the supervisor's."""
        return self.needs_supervisor(torch.arange(student_steps) / student_steps)

    def real_of(
        self, step: StudentStep, supervisor_lesson: Lesson | None, batch: Batch, schedule: NoiseSchedule
    ) -> Tensor:
        """The real side (B, C, F, h, w) of a student step: endpoints, or clips, as the setting `judges` says."""
        if self.judges == "clip":
            from_clips = batch.x0
            from_supervisor = None if supervisor_lesson is None else supervisor_lesson.target(schedule)
        else:
            # the noise of z_t itself: real and fake then differ in what the student does, and in nothing else
            from_clips = schedule.add_noise(batch.x0, step.noise, step.s)
            from_supervisor = None if supervisor_lesson is None else supervisor_lesson.z_s
        if self.real == "clips" or from_supervisor is None:
            return from_clips
        if self.real == "supervisor":
            return from_supervisor
        # clips_at_data: data where a step ends in data, the supervisor's endpoint at the nodes before
        at_data = (step.s < _AT_DATA).to(batch.x0.device).view(-1, 1, 1, 1, 1)
        return torch.where(at_data, from_clips, from_supervisor)

    def fake_of(self, step: StudentStep, x0: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The student's side of the same step, from its prediction x0 at z_t."""
        return x0 if self.judges == "clip" else schedule.step(step.z_t, x0, step.t, step.s)

    def times_of(self, step: StudentStep) -> Tensor:
        """The times (B,) at which both sides lie."""
        return torch.zeros_like(step.s) if self.judges == "clip" else step.s


def students_clips(
    supervision: Supervision, noise: Tensor, batch: Batch, roles: NetworkRoles, through: Through, drawn: int
) -> Tensor:
    """The student's own clips (B, C, F, h, w) from noise of that shape, all its steps one after the other.

    Gradients pass through `all` steps, the `last`, or those from number `drawn` on. A caller that wants none disables
    them.
    """
    grid = roles.teacher.schedule.grid(supervision.student_steps)
    first = {"all": 0, "last": supervision.student_steps - 1, "drawn": drawn}[through]
    # steps before the first that learns have no graph, so their activations are not kept
    z = rollout(roles.teacher, noise, batch.conditions, grid[: first + 1], network=roles.student)
    torch.clear_autocast_cache()  # torch 2.9 would go on with the weights that it cast there, without their gradients
    return integrate(roles.teacher, z, batch.conditions, grid[first:], network=roles.student)
