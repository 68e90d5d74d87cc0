"""How fast this machine trains and samples the embedded teacher: a probe of some seconds."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

import torch

from fewstep.commands.demo_plan import Speed
from fewstep.distill.draws import Draws
from fewstep.distill.objectives.base import STUDENT, Batch
from fewstep.distill.objectives.progressive import Progressive, ProgressiveObjective
from fewstep.distill.objectives.supervision import Supervision
from fewstep.student.denoiser import Roles
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.load_teacher import load_teacher

if TYPE_CHECKING:
    from fewstep.distill.recipe import Recipe
    from fewstep.teacher.base import Teacher

_BATCH = 16  # clips, as the demo takes them
_SECONDS, _TIMES = 3.0, 3  # each unit is timed so often, or until so much time is over


def measure_speed(plan: Recipe) -> Speed:
    """Seconds of the demo's units, in the precision and on the device of its recipe; nothing is kept."""
    teacher = load_teacher(plan.teacher, getattr(torch, plan.precision), plan.device, plan.shift)
    size = teacher.default_size()
    assert size is not None
    # noise in place of latents: how long a step takes does not depend on what it shows
    z = teacher.noise(range(_BATCH), teacher.latent_shape(*size))
    conditions = teacher.conditions(["a large red ring moves left over a dark striped background"] * _BATCH)
    batch = Batch(z, conditions, Draws.seeded(0, _BATCH), 0.0)
    guidance = plan.stages[0].guidance

    @torch.no_grad()
    def guided() -> object:
        return teacher.denoise(z, 0.6, conditions, guidance).sum().item()  # 0.6: one of the levels that are guided

    @torch.no_grad()
    def decode() -> object:
        return teacher.decode(z[: _BATCH // 2]).sum().item()

    return Speed(train=_seconds(_training(teacher, plan, batch)), guided=_seconds(guided), decode=2 * _seconds(decode))


def _training(teacher: Teacher, plan: Recipe, batch: Batch) -> Callable[[], object]:
    """A training step of the first stage, of a student that is forgotten."""
    stage, roles = plan.stages[0], Roles(teacher)
    objective = ProgressiveObjective(
        Progressive(), Supervision(stage.teacher_steps, stage.student_steps, Guidance.of(stage.guidance))
    )
    in_bfloat16 = plan.precision == "bfloat16"
    optimizer = torch.optim.AdamW(roles.parameters.values(), lr=stage.lr)

    def step() -> object:
        # all that a step of the run does: the supervisor's endpoint, loss, optimizer and EMA
        with warnings.catch_warnings(), torch.autocast(teacher.device.type, torch.bfloat16, enabled=in_bfloat16):
            warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # as in `follow_stages`
            lesson = objective.lesson((STUDENT,), batch, roles, keep_graph=True)
            loss = objective.loss(STUDENT, lesson, roles, 0)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        roles.update_average(0.9)
        return loss.item()

    return step


def _seconds(unit: Callable[[], object]) -> float:
    """The median of a few times, after one that does not count: the first call prepares kernels."""
    unit()
    began, times = time.perf_counter(), list[float]()
    while not times or (len(times) < _TIMES and time.perf_counter() - began < _SECONDS):
        start = time.perf_counter()
        unit()
        times.append(time.perf_counter() - start)
    return median(times)
