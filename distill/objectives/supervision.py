"""What a student's step is learned from: where it starts, and where the supervisor's steps end (arXiv 2402.13929)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.distill.objectives.base import Batch, Roles
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.rollout import endpoint
from fewstep.teacher.schedule import NoiseSchedule, shift_time, substeps_per_step


@dataclass(frozen=True)
class Transition:
    """From where to where each clip of a batch goes in one student step: float64 and int64 on the CPU, (B,)."""

    t: Tensor
    s: Tensor
    num_substeps: Tensor  # supervisor steps between t and s


def draw_transition(
    schedule: NoiseSchedule,
    teacher_steps: int,
    student_steps: int,
    starts: Sequence[float] | None,
    batch: int,
    generator: torch.Generator,
) -> Transition:
    """`batch` steps of a student, each with its own t and s.

    Without `starts`, t is any node of the student's grid but the last, and s is the node below it. With `starts`, t
    is any of them and s the student's next node below t. Starts are fractions of the grid, 1 noise and 0 data, as
    they are before the schedule's shift, where nodes are evenly spaced: 0.5 is the middle node of two steps at any
    shift. From a start between two nodes the supervisor takes its share of the substeps of a whole step, rounded, but
    at least one. Raises ValueError when the two grids are not nested or a start is not in (0, 1].
    """
    substeps = substeps_per_step(teacher_steps, student_steps)
    if starts is None:
        starts = [1 - i / student_steps for i in range(student_steps)]
    elif not starts or not all(0 < start <= 1 for start in starts):
        raise ValueError(f"start times {list(starts)} must be at least one, each above 0 (data) and up to 1 (noise)")
    # in student steps above data; a start that is a node but for rounding is that node
    heights = [round(start * student_steps, 9) for start in starts]
    nodes_below = [math.ceil(height) - 1 for height in heights]
    counts = [max(1, round((height - node) * substeps)) for height, node in zip(heights, nodes_below, strict=True)]
    drawn = torch.randint(len(starts), (batch,), generator=generator)
    height, node = (torch.tensor(x, dtype=torch.float64)[drawn] for x in (heights, nodes_below))
    t, s = (shift_time(x / student_steps, schedule.shift) for x in (height, node))
    return Transition(t, s, torch.tensor(counts)[drawn])


@dataclass(frozen=True)
class Lesson:
    """One transition as the supervisor takes it; latents (B, C, F, h, w) without gradients, times (B,)."""

    z_t: Tensor
    t: Tensor
    z_s: Tensor
    s: Tensor

    def target(self, schedule: NoiseSchedule) -> Tensor:
        """The x0 with which one step from z_t lands on z_s."""
        return schedule.endpoint_x0(self.z_t, self.z_s, self.t, self.s)


@dataclass(frozen=True)
class Supervision:
    """A stage's facts: the supervisor's steps over the whole grid, the student's, guidance, and start times.

    `guidance` is that of the supervisor, which must be the base teacher where it is not 1. For `starts` see
    `draw_transition`.
    """

    teacher_steps: int
    student_steps: int
    guidance: Guidance | float = 1.0
    starts: tuple[float, ...] | None = None

    @torch.no_grad()
    def lesson(self, batch: Batch, roles: Roles) -> Lesson:
        """Noises the batch's clips to drawn times, and follows the supervisor from there.

        At t = 1 a student is sampled from noise alone, so it learns from that as well, though most VP schedules leave
        some of the clip there (arXiv 2305.08891).
        """
        teacher, schedule, conditions = roles.teacher, roles.teacher.schedule, batch.conditions
        steps = draw_transition(
            schedule, self.teacher_steps, self.student_steps, self.starts, len(batch.x0), batch.generator
        )
        noise = batch.noise()
        z_t = schedule.add_noise(batch.x0, noise, steps.t)
        at_noise = steps.t > 1 - 1e-9
        z_t[at_noise] = noise[at_noise]
        z_s = torch.empty_like(z_t)
        for count in steps.num_substeps.unique().tolist():  # only starts between nodes give more than one
            part = steps.num_substeps == count
            z_s[part] = endpoint(
                teacher, z_t[part], steps.t[part], steps.s[part], count, conditions[part], self.guidance,
                roles.supervisor,
            )  # fmt: skip
        return Lesson(z_t, steps.t, z_s, steps.s)
