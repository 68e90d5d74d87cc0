"""Sampling from the teacher: whole videos, and the endpoints that students learn to reach in one step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.schedule import Time


def integrate(
    teacher: Teacher,
    z: Tensor,
    conditions: Conditions,
    grid: Tensor,
    guidance: Guidance | float = 1.0,
    on_step: Callable[[int], None] | None = None,
    network: nn.Module | None = None,
) -> Tensor:
    """Latents at the grid's last time, after one guided ODE step per interval; gradients flow where they are enabled.

    z (B, C, F, h, w) are the latents at the grid's first time; the grid is (n + 1,) or, with times per
    sample, (n + 1, B). `on_step` is called with the number of steps done. `network` is asked instead of the
    teacher's own, as in `Teacher.denoise`.
    """
    for i, (t, s) in enumerate(pairwise(grid)):
        # x0 at z_t, then z_s with the same eps: DDIM, or Euler on the probability-flow ODE
        z = teacher.schedule.step(z, teacher.denoise(z, t, conditions, guidance, network), t, s)
        if on_step is not None:
            on_step(i + 1)
    return z


rollout = torch.no_grad()(integrate)  # the same without gradients, whoever calls it


def endpoint(
    teacher: Teacher,
    z_t: Tensor,
    t: Time,
    s: Time,
    num_substeps: int,
    conditions: Conditions,
    guidance: Guidance | float = 1.0,
    network: nn.Module | None = None,
) -> Tensor:
    """z_s after `num_substeps` teacher steps from z_t, evenly spaced before the shift (arXiv 2402.13929).

    `teacher.schedule.endpoint_x0` turns it into what a student's single step must predict. `network` is asked instead
    of the teacher's own: an earlier stage's student supervises the next.
    """
    # the n intervals that one step of the student from t to s replaces
    grid = teacher.schedule.substeps(t, s, num_substeps)
    return rollout(teacher, z_t, conditions, grid, guidance, network=network)
