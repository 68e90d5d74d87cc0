"""How well real and student can be told apart: heads trained afresh on a student that stands still.

A discriminator at chance says nothing by itself: the student may have outrun it. Heads that begin anew and are trained
until they see what there is give the figure that can be compared between students.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from fewstep.distill.batches import Batches
from fewstep.distill.discriminator import Discriminator
from fewstep.distill.objectives.adversarial import DISCRIMINATOR, Adversarial, AdversarialObjective
from fewstep.distill.objectives.base import Batch
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.player import Player
from fewstep.distill.processes import sum_over_processes
from fewstep.teacher.base import Teacher

_POSITION = 2 * 10**9  # batches that training never reaches
HELD_OUT = 32  # batches on which nothing was learned
_SEED = 0  # of the heads' first weights


@dataclass(frozen=True)
class StillRoles:
    """The networks of a stage with a student that is not trained."""

    teacher: Teacher
    student: nn.Module
    supervisor: nn.Module
    backbone: nn.Module


@dataclass(frozen=True)
class FreshHeads:
    """What heads of a stage's own kind are trained on: its settings, its supervision and its clips.

    They read a frozen backbone, whatever the stage's discriminator trains. `batch`: clips at a time.
    """

    settings: Adversarial
    supervision: Supervision
    batches: Batches
    batch: int
    any_batch: Batch
    accelerator: Accelerator

    def accuracy(self, roles: StillRoles) -> float:
        """The share of held-out pairs of which the real one has the higher logit, on average over heads.

        The same clips, noise and first weights for every student. 0.5: the heads see no difference.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            objective = self._objective(roles)
        heads = objective.discriminator
        player = Player(heads.parameters(), self.settings.lr, self.settings.betas, 0.0, 1.0)
        right = torch.zeros(2, dtype=torch.float64)
        for position in range(self.settings.probe + HELD_OUT):
            batch = self.batches.batch(_POSITION + position, self.batch, 1.0)
            with self.accelerator.autocast():
                lesson = objective.lesson((DISCRIMINATOR,), batch, roles, keep_graph=False)
                figures = objective.loss(DISCRIMINATOR, lesson, roles, position)
            if position >= self.settings.probe:
                right += torch.tensor([float(figures["accuracy"]), 1.0])
                continue
            self.accelerator.backward(figures["loss"])
            player.gather(self.accelerator)
            player.move(1.0)
        share, count = sum_over_processes(right, roles.teacher.device).tolist()
        return share / count

    def _objective(self, roles: StillRoles) -> AdversarialObjective:
        frozen = self.settings.discriminator.model_copy(update={"backbone": "frozen"})
        settings = self.settings.model_copy(update={"discriminator": frozen, "mismatched": 0.0, "balance": None})
        heads = Discriminator(
            roles.teacher, roles.backbone, frozen, self.any_batch.x0, self.any_batch.conditions, settings.conditional
        )
        return AdversarialObjective(settings, self.supervision, heads)
