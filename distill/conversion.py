"""Students that predict eps learn to predict v or x0 instead, before a stage of one step (arXiv 2402.13929).

Schedules of Stable Diffusion's kind end short of pure noise. At t = 1 x0 is (z - sigma eps) / alpha, so an error of eps
is sigma/alpha times as large in x0: 14.6 times with its own betas, 25 times with AnimateDiff's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fewstep.distill.batches import BatchSource
from fewstep.distill.objectives.base import STUDENT, Batch, NetworkRoles, Trainee
from fewstep.distill.objectives.progressive import Progressive
from fewstep.distill.objectives.regression import regress
from fewstep.distill.objectives.supervision import Supervision, draw_transition, noise_as_sampled
from fewstep.distill.optimizers import OptimizerKind
from fewstep.distill.settings import Conversion, Logging, Stage, conversion_name
from fewstep.distill.trainer import Trainer
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles as StageRoles
from fewstep.teacher.schedule import NoiseSchedule

MOST_AMPLIFIED = 8.0  # sigma/alpha; LOG.md has others
CONVERSIONS = 10**6  # a conversion's batches are those of stages far behind: not its stage's own clips and noise
AT_OWN_STARTS = 0.5  # of the clips; the others are noised to any time, so that what the network knows there stays


@dataclass(frozen=True)
class ConversionObjective:
    """Regression of the student's x0 on that of `original`, a frozen copy of the network it started as.

    Times are those at which the stage will ask the student, and any other. Where sigma/alpha is above `most_amplified`
    the original is asked as at the latest time at which it is not, about the same z: so it says what it makes of this
    noise, and its errors of eps count `most_amplified` times at most. Its x0 at t = 1 itself is no target, for a
    student that learns it well learns the amplified error.
    """

    original: nn.Module
    supervision: Supervision
    most_amplified: float = MOST_AMPLIFIED

    def trainees(self) -> dict[str, Trainee]:
        """None besides the student."""
        return {}

    def rounds(self, step: int) -> tuple[tuple[str, ...], ...]:
        """The student step."""
        return ((STUDENT,),)

    def lesson(self, turns: tuple[str, ...], batch: Batch, roles: NetworkRoles, keep_graph: bool) -> Batch:
        """The clips."""
        return batch

    def loss(self, turn: str, lesson: Batch, roles: NetworkRoles, step: int) -> dict[str, Tensor]:
        """The error of x0 as the student's own new prediction has it."""
        batch = lesson
        teacher, schedule = roles.teacher, roles.teacher.schedule
        t, noise = self._times(schedule, batch), batch.noise()
        z_t = noise_as_sampled(schedule, batch.x0, noise, t)
        # sigma/alpha = m at level m / (1 + m): nearer to noise x0 would have the error of eps more than m times over
        latest = schedule.time_of_level(self.most_amplified / (1 + self.most_amplified))
        with torch.no_grad():
            target = teacher.denoise(z_t, t.clamp_max(float(latest)), batch.conditions, network=self.original)
        x0 = teacher.denoise(z_t, t, batch.conditions, network=roles.student)
        return {"loss": regress(teacher.schedule_of(roles.student), x0, target, t)}

    def watched(self) -> dict[str, float]:
        """Nothing."""
        return {}

    def _times(self, schedule: NoiseSchedule, batch: Batch) -> Tensor:
        settings, draws = self.supervision, batch.draws
        own = draw_transition(schedule, settings.teacher_steps, settings.student_steps, settings.starts, draws).t
        anywhere = 1 - draws.each(lambda g: torch.rand(1, dtype=torch.float64, generator=g))  # above 0
        at_own = draws.each(lambda g: torch.rand(1, generator=g)) < AT_OWN_STARTS
        return torch.where(at_own, own, anywhere)


def conversion_stage(stage: Stage, conversion: Conversion) -> Stage:
    """The conversion as a stage of its own, with the batch of the stage that it precedes."""
    changes = {
        "name": conversion_name(stage.name), "steps": conversion.steps, "lr": conversion.lr, "betas": (0.9, 0.999),
        "ema": 0.0, "objective": Progressive(), "gate": None, "convert": None,
    }  # fmt: skip
    return stage.model_copy(update=changes)


def conversion_trainer(
    stage: Stage,
    conversion: Conversion,
    roles: StageRoles,
    original: nn.Module,
    batches: BatchSource,
    contract: SamplingContract,
    accelerator: Accelerator,
    logging: Logging,
    folder: Path,
    optimizer: OptimizerKind = "adamw",
    num_groups: int | None = None,
) -> Trainer:
    """Trains `roles.student`, which is recorded as predicting `conversion.to`, to say what `original` says.

    It keeps a checkpoint as stages do, until the stage writes its own: a stop during or after it loses nothing. Its
    curve lies next to those of the stages; trackers, which know a recipe's stages only, do not get it. The original's
    weights take memory of their own unless they are the teacher's or a supervisor's.
    """
    supervision = Supervision(stage.teacher_steps, stage.student_steps, starts=stage.starts)
    return Trainer(
        conversion_stage(stage, conversion), roles, ConversionObjective(original, supervision), batches, contract,
        accelerator, logging, folder, optimizer=optimizer, num_groups=num_groups,
    )  # fmt: skip


def announcement(stage: Stage, conversion: Conversion) -> str:
    """What a run says before it converts."""
    why = ", which cannot be sampled in one step" if stage.student_steps == 1 else ""
    return (
        f"{stage.name}: its student starts as predicting eps{why}: first converting it to {conversion.to} by "
        f"{conversion.steps} steps of regression on its own x0"
    )
