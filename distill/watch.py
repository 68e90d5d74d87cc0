"""Whether a student is on its way: how far it lands from its supervisor, and whether its clips still move."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.distill.objectives.base import Batch, Roles
from fewstep.distill.objectives.regression import regress
from fewstep.distill.objectives.supervision import Supervision
from fewstep.teacher.rollout import rollout


@torch.no_grad()
def endpoint_error(roles: Roles, batches: Sequence[Batch], supervision: Supervision) -> float:
    """Mean squared error of the student's step against the supervisor's endpoint, in the student's own prediction.

    The same clips and noise at every call: the batches' generators are set back.
    """
    teacher, found = roles.teacher, []
    for batch in batches:
        before = batch.generator.get_state()
        lesson = supervision.lesson(batch, roles)
        batch.generator.set_state(before)
        x0 = teacher.denoise(lesson.z_t, lesson.t, batch.conditions, network=roles.student)
        own = teacher.schedule_of(roles.student)
        kept = teacher.kept(batch.conditions, x0)
        found.append(regress(own, x0, lesson.target(teacher.schedule), lesson.t, kept=kept))
    return float(torch.stack(found).mean())


@torch.no_grad()
def liveliness(roles: Roles, batch: Batch, supervision: Supervision) -> dict[str, float]:
    """The student's clips against its supervisor's from the same noise: `motion` (mean change between frames) and
    `contrast` (spread) as ratios. Motion far under 1 is a student that freezes; contrast far over 1, one that burns."""
    schedule = roles.teacher.schedule
    before = batch.generator.get_state()
    z = batch.noise()
    batch.generator.set_state(before)
    student = rollout(
        roles.teacher, z, batch.conditions, schedule.grid(supervision.student_steps), network=roles.student
    )
    teacher = supervision.clips(z, batch, roles)
    return {"motion": _motion(student) / _motion(teacher), "contrast": float(student.std() / teacher.std())}


def _motion(latents: Tensor) -> float:
    """Mean absolute change between neighbouring frames; of one frame, its own size, so that ratios stay defined."""
    changes = latents.diff(dim=2) if latents.shape[2] > 1 else latents
    return float(changes.abs().mean())
