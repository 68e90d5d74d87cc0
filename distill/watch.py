"""Measures a student against its supervisor: how far it lands from it, and whether its clips are lively."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
from torch import Tensor

from fewstep.distill.objectives.base import Batch, NetworkRoles
from fewstep.distill.objectives.regression import regress
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.processes import sum_over_processes
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.experts import Experts
from fewstep.teacher.rollout import endpoint
from fewstep.teacher.schedule import substeps_per_step

WATCHED_CLIPS = 8  # of all processes together, at least two in each: one clip alone has no diversity
_TINY = 1e-12  # so that a supervisor that shows nothing has ratios anyway


@torch.no_grad()
def endpoint_error(roles: NetworkRoles, batches: Iterable[Batch], supervision: Supervision) -> float:
    """Mean squared error of the student's step against the supervisor's endpoint, in the student's own prediction.

    The same clips and noise at every call. The mean is over the clips of all processes, which get the same number.
    """
    teacher, errors = roles.teacher, []
    for batch in batches:
        with batch.draws.kept():
            lesson = supervision.lesson(batch, roles)
        x0 = teacher.denoise(lesson.z_t, lesson.t, batch.conditions, network=roles.student)
        own = teacher.schedule_of(roles.student)
        kept = teacher.kept(batch.conditions, x0)
        errors.append(regress(own, x0, lesson.target(teacher.schedule), lesson.t, kept=kept))
    return mean_over_processes({"error": torch.stack(errors).mean()})["error"]


class MotionAndDiversity:
    """The student's clips against its supervisor's, from the same noise and prompts at every call.

    `motion` is the mean change between frames, `contrast` the spread of latents, `diversity` how much clips differ from
    one another, all as ratios; `colour` the distance of the channels' means, in the supervisor's standard deviations.
    Motion far under 1 is a student that freezes; contrast far over 1, one that burns. The supervisor's clips are made
    once, `at_once` of them go through a network together. Figures are means over all processes.

    experts: the names of those that have learned the student's steps; None: all. Where another is in charge the
    supervisor takes its own steps: an expert's stage is not judged by what the other has yet to learn.
    """

    def __init__(
        self,
        roles: NetworkRoles,
        batch: Batch,
        supervision: Supervision,
        at_once: int = WATCHED_CLIPS,
        experts: frozenset[str] | None = None,
    ) -> None:
        self._roles, self._supervision, self._batch = roles, supervision, batch
        self._at_once, self._experts = at_once, experts
        self._of_supervisor: dict[str, Tensor] | None = None

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """motion, contrast, colour, and of several clips diversity."""
        # student and supervisor start from the same noise, at every call
        with self._batch.draws.kept():
            z = self._batch.noise()
        if self._of_supervisor is None:
            self._of_supervisor = _statistics(
                self._clips(z, lambda noise, given: self._supervision.clips(noise, given, self._roles))
            )
        own, its = _statistics(self._clips(z, self._students_clips)), self._of_supervisor
        # ratios, so that bands mean the same in every family
        figures = {name: own[name] / its[name].clamp_min(_TINY) for name in ("motion", "contrast")}
        figures["colour"] = (own["means"] - its["means"]).square().mean().sqrt() / its["contrast"].clamp_min(_TINY)
        if len(z) > 1:
            figures["diversity"] = own["variety"] / its["variety"].clamp_min(_TINY)
        return mean_over_processes(figures)

    def _clips(self, noise: Tensor, sample: Callable[[Tensor, Conditions], Tensor]) -> Tensor:
        """Clips from noise, both (B, C, F, h, w), a few at a time."""
        parts = [slice(i, i + self._at_once) for i in range(0, len(noise), self._at_once)]
        return torch.cat([sample(noise[part], self._batch.conditions[part]) for part in parts])

    def _students_clips(self, z: Tensor, conditions: Conditions) -> Tensor:
        teacher, settings = self._roles.teacher, self._supervision
        num_substeps = substeps_per_step(settings.teacher_steps, settings.student_steps)
        for t, s in pairwise(teacher.schedule.grid(settings.student_steps)):
            if self._has_learned(t):
                z = endpoint(teacher, z, t, s, 1, conditions, network=self._roles.student)
            else:
                z = endpoint(
                    teacher, z, t, s, num_substeps, conditions, settings.guidance, network=self._roles.supervisor
                )
        return z

    def _has_learned(self, t: Tensor) -> bool:
        """Whether the student's step from t, a scalar, is one that a trained expert takes."""
        denoiser = self._roles.teacher.denoiser
        if self._experts is None or not isinstance(denoiser, Experts):
            return True
        return denoiser.names_at(t.reshape(1))[0] in self._experts


def mean_over_processes(figures: dict[str, Tensor]) -> dict[str, float]:
    """The same numbers in all processes, of scalars that each has of its own clips."""
    own = torch.stack([figure.double().reshape(()) for figure in figures.values()])
    total = sum_over_processes(torch.cat([own, own.new_ones(1)]), own.device)
    return dict(zip(figures, (total[:-1] / total[-1]).tolist(), strict=True))


def _statistics(latents: Tensor) -> dict[str, Tensor]:
    """Of latents (B, C, F, h, w): scalars, and `means` (C,). A single frame's motion is its own size."""
    latents = latents.float()
    changes = latents.diff(dim=2) if latents.shape[2] > 1 else latents
    return {
        "motion": changes.abs().mean(),
        "contrast": latents.std(),
        "means": latents.transpose(0, 1).flatten(1).mean(1),
        "variety": latents.std(0).mean() if len(latents) > 1 else latents.new_ones(()),
    }
