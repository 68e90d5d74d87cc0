"""Measures a student against its supervisor: how far it lands from it, and whether its clips are lively."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.distill.objectives.base import Batch, NetworkRoles
from fewstep.distill.objectives.regression import regress
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.processes import sum_over_processes
from fewstep.teacher.rollout import rollout

_CLIPS = 8  # that motion_and_diversity is measured on, at most
_TINY = 1e-12  # so that a supervisor that shows nothing has ratios anyway


@torch.no_grad()
def endpoint_error(roles: NetworkRoles, batches: Sequence[Batch], supervision: Supervision) -> float:
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
    once. Figures are means over all processes.
    """

    def __init__(self, roles: NetworkRoles, batch: Batch, supervision: Supervision) -> None:
        self._roles, self._supervision = roles, supervision
        some = slice(0, _CLIPS)
        self._batch = Batch(batch.x0[some], batch.conditions[some], batch.draws.first(_CLIPS), batch.progress)
        self._of_supervisor: dict[str, Tensor] | None = None

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """motion, contrast, colour, and of several clips diversity."""
        roles, batch = self._roles, self._batch
        # student and supervisor start from the same noise, at every call
        with batch.draws.kept():
            z = batch.noise()
        if self._of_supervisor is None:
            self._of_supervisor = _statistics(self._supervision.clips(z, batch, roles))
        grid = roles.teacher.schedule.grid(self._supervision.student_steps)
        own = _statistics(rollout(roles.teacher, z, batch.conditions, grid, network=roles.student))
        its = self._of_supervisor
        # ratios, so that bands mean the same in every family
        figures = {name: own[name] / its[name].clamp_min(_TINY) for name in ("motion", "contrast")}
        figures["colour"] = (own["means"] - its["means"]).square().mean().sqrt() / its["contrast"].clamp_min(_TINY)
        if len(z) > 1:
            figures["diversity"] = own["variety"] / its["variety"].clamp_min(_TINY)
        return mean_over_processes(figures)


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
