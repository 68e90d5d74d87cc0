"""What a student's step is learned from: where it starts, and where the supervisor's steps end (arXiv 2402.13929)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewstep.distill.draws import Draws
from fewstep.distill.objectives.base import Batch, NetworkRoles
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.rollout import endpoint, rollout
from fewstep.teacher.schedule import NoiseSchedule, substeps_per_step
from fewstep.teacher.sharded import is_sharded, wanted_by_any


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
    draws: Draws,
) -> Transition:
    """A step of a student for each clip, with its own t and s.

    Without `starts`, t is any node of the student's grid but the last, and s is the node below it. With `starts`, t
    is any of them and s the student's next node below t. Starts are fractions of the grid, 1 noise and 0 data, as
    they are before the schedule's shift, where nodes are evenly spaced: 0.5 is the middle node of two steps at any
    shift. From a start between two nodes the supervisor takes its share of the substeps of a whole step, rounded, but
    at least one. Raises ValueError when the two grids are not nested or a start is not in (0, 1].
    """
    segments = _segments(teacher_steps, student_steps, starts)
    drawn = draws.each(lambda generator: torch.randint(len(segments), (1,), generator=generator))
    heights, nodes, counts = (
        torch.tensor(column, dtype=torch.float64)[drawn] for column in zip(*segments, strict=True)
    )
    # drawn on the even grid, bent by the shift afterwards, so nodes stay nested at any shift
    t, s = (schedule.time_at(x / student_steps) for x in (heights, nodes))
    return Transition(t, s, counts.long())


def supervisor_times(teacher_steps: int, student_steps: int, starts: Sequence[float] | None) -> list[float]:
    """At which fractions of the grid, before the shift, `draw_transition` has the supervisor asked; falling, 1 noise.

    Raises ValueError as that does.
    """
    times = set[float]()
    for height, node, count in _segments(teacher_steps, student_steps, starts):
        times |= {_rounded((height + (node - height) * i / count) / student_steps) for i in range(count)}
    return sorted(times, reverse=True)


def trained_starts(student_steps: int, starts: Sequence[float] | None) -> set[float]:
    """At which fractions of the grid, before the shift, a stage trains a student to take a step: its nodes, else its
    `starts`."""
    return set(map(_rounded, nodes_of(student_steps) if starts is None else starts))


def nodes_of(student_steps: int) -> list[float]:
    """At which fractions of the grid, before the shift, a student is sampled; falling, 1 noise."""
    return [_rounded(1 - i / student_steps) for i in range(student_steps)]


def _segments(teacher_steps: int, student_steps: int, starts: Sequence[float] | None) -> list[tuple[float, int, int]]:
    """Of each start: its height and the node below it, in student steps above data, and the substeps between."""
    substeps = substeps_per_step(teacher_steps, student_steps)
    if starts is None:
        starts = [1 - i / student_steps for i in range(student_steps)]
    elif not starts or not all(0 < start <= 1 for start in starts):
        raise ValueError(f"start times {list(starts)} must be at least one, each above 0 (data) and up to 1 (noise)")
    # a start that is a node but for rounding is that node
    heights = [_rounded(start * student_steps) for start in starts]
    nodes = [math.ceil(height) - 1 for height in heights]
    counts = [max(1, round((height - node) * substeps)) for height, node in zip(heights, nodes, strict=True)]
    return list(zip(heights, nodes, counts, strict=True))


def _rounded(fraction: float) -> float:
    return round(fraction, 9)


def noise_as_sampled(schedule: NoiseSchedule, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Clips x0 noised to t (B,), and the noise alone at t = 1.

    From noise alone a student is sampled, so it learns from that as well, though most VP schedules leave some of the
    clip at t = 1 (arXiv 2305.08891).
    """
    # z_t = alpha_t x0 + sigma_t eps; at t = 1 sampling starts from eps alone, whatever alpha_1 is
    z_t = schedule.add_noise(x0, noise, t)
    at_noise = t > 1 - 1e-9
    z_t[at_noise] = noise[at_noise]
    return z_t


@dataclass(frozen=True)
class StudentStep:
    """One step that a student is to take: latents (B, C, F, h, w), times (B,)."""

    z_t: Tensor
    t: Tensor
    s: Tensor
    noise: Tensor  # what the clips in z_t were noised with
    num_substeps: Tensor  # supervisor steps between t and s, int64 (B,) on the CPU


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

    def draw(self, batch: Batch, schedule: NoiseSchedule) -> StudentStep:
        """Noises the batch's clips to drawn times."""
        steps = draw_transition(schedule, self.teacher_steps, self.student_steps, self.starts, batch.draws)
        noise = batch.noise()
        z_t = noise_as_sampled(schedule, batch.x0, noise, steps.t)
        return StudentStep(z_t, steps.t, steps.s, noise, steps.num_substeps)

    @torch.no_grad()
    def teach(self, step: StudentStep, batch: Batch, roles: NetworkRoles) -> Lesson:
        """Follows the supervisor through the step."""
        z_s = torch.empty_like(step.z_t)
        # z_s: the supervisor's n ODE steps from z_t; clips that take as many go through them together
        for count in self._counts(step, roles.supervisor):  # only starts between nodes give more than one
            part = step.num_substeps == count
            own = bool(part.any())
            if not own:
                part = torch.arange(len(part)) == 0  # no clip here takes so many, but one of another process does
            end = endpoint(
                roles.teacher, step.z_t[part], step.t[part], step.s[part], count, batch.conditions[part],
                self.guidance, roles.supervisor,
            )  # fmt: skip
            if own:
                z_s[part] = end
        return Lesson(step.z_t, step.t, z_s, step.s)

    def _counts(self, step: StudentStep, supervisor: nn.Module) -> list[int]:
        """How many substeps clips take, in this process; of a sharded supervisor in any."""
        own: list[int] = step.num_substeps.unique().tolist()
        every = sorted({count for *_, count in _segments(self.teacher_steps, self.student_steps, self.starts)})
        if len(every) == 1 or not is_sharded(supervisor):
            return own
        # each pass of a sharded supervisor gathers weights from all processes, so all join in every count that one has
        taking = wanted_by_any([count in own for count in every], step.z_t.device)
        return [count for count, wanted in zip(every, taking, strict=True) if wanted]

    def lesson(self, batch: Batch, roles: NetworkRoles) -> Lesson:
        """A step that is drawn, as the supervisor takes it."""
        return self.teach(self.draw(batch, roles.teacher.schedule), batch, roles)

    def clips(self, noise: Tensor, conditions: Conditions, roles: NetworkRoles) -> Tensor:
        """The supervisor's whole way from noise (B, C, F, h, w) to clips, without gradients."""
        grid = roles.teacher.schedule.grid(self.teacher_steps)
        return rollout(roles.teacher, noise, conditions, grid, self.guidance, network=roles.supervisor)
