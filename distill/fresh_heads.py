"""How well real and student can be told apart: heads trained from scratch on a finished student.

A discriminator at chance is inconclusive, because it may lag behind the student. Heads that are trained from scratch
until they see what there is give a figure that can be compared between students.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from torch import Tensor

from fewstep.distill.batches import BatchSource
from fewstep.distill.discriminator import Discriminator
from fewstep.distill.objectives.adversarial import DISCRIMINATOR, AdversarialObjective
from fewstep.distill.objectives.base import Batch, NetworkRoles
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.optimizer_group import OptimizerGroup
from fewstep.teacher.sharded import context_size

if TYPE_CHECKING:
    from fewstep.distill.objectives.adversarial_settings import Adversarial

_POSITION = 2 * 10**9  # batches that training never reaches: clips of the data with noise that no step draws
# further steps' batches, on which the heads learn nothing; where the data are few clips, of the same with other noise
HELD_OUT = 32
_SEED = 0  # of the heads' first weights


def settings_of_heads(settings: Adversarial) -> Adversarial:
    """How fresh heads of a stage learn: real against student alone, on a frozen backbone.

    They see no mismatched prompts, and need no balance, which paces a student's training.
    """
    frozen = settings.discriminator.model_copy(update={"backbone": "frozen"})
    return settings.model_copy(update={"discriminator": frozen, "mismatched": 0.0, "balance": None})


@dataclass(frozen=True)
class HeldOut:
    """The share of pairs with other noise that are ranked right, on average over heads, and the number of pairs.

    `accuracies`: the same of each transition that was drawn, by the time at which it ends, noisiest first.
    """

    accuracy: float
    pairs: int
    accuracies: Mapping[float, float]


@dataclass(frozen=True)
class FreshHeads:
    """What heads of a stage's own kind are trained on: its settings, its supervision and its clips.

    They read a frozen backbone, whatever the stage's discriminator trains. `batch`: clips at a time, `micro_batches` of
    which make a step, as in the stage.
    """

    settings: Adversarial
    supervision: Supervision
    batches: BatchSource
    batch: int
    any_batch: Batch
    accelerator: Accelerator
    micro_batches: int = 1

    def accuracy(self, roles: NetworkRoles) -> HeldOut:
        """How often heads that were trained on this student rank the real one of another pair higher.

        The same clips, noise and first weights for every student. 0.5: the heads see no difference.
        """
        # the same first weights for every student, with the state of the global generator left as it was
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            learning = self._objective(roles)
        heads = learning.discriminator
        # penalties cost further reads and say nothing of accuracy: left out where the heads are only asked
        plain = learning.settings.model_copy(update={"r1": 0.0, "r2": 0.0})
        held_out = AdversarialObjective(plain, self.supervision, heads, memory=None)  # every pair counts the same
        group = OptimizerGroup(heads.parameters(), self.settings.lr, self.settings.betas, 0.0, 1.0)
        alike = context_size(roles.backbone)  # processes that judge the same clips, each with a share of the gradient
        for step in range(self.settings.probe):
            total = 0.0
            for loss in self._losses(learning, roles, step):
                self.accelerator.backward(alike * loss / self.micro_batches)
                total += float(loss.detach())
            # the norm of a gradient that is not finite is not finite in all processes: heads stay as they were
            if math.isfinite(group.gather(self.accelerator, total)):
                group.step(1.0)
            else:
                group.clear()
        # then pairs with noise that the heads did not learn from
        with torch.no_grad():
            for step in range(self.settings.probe, self.settings.probe + HELD_OUT):
                for _ in self._losses(held_out, roles, step):
                    pass
        pairs, right = held_out.scores.weights, held_out.scores.accuracies  # of all processes
        ends = held_out.ends(roles.teacher.schedule).tolist()
        drawn = {end: float(right[i]) for i, end in enumerate(ends) if pairs[i]}
        return HeldOut(float((right * pairs).sum() / pairs.sum()), round(float(pairs.sum()) / alike), drawn)

    def _losses(self, objective: AdversarialObjective, roles: NetworkRoles, step: int) -> Iterator[Tensor]:
        """The discriminator's, of each micro-batch of a step; the objective's scores are of all of them."""
        for position in range(step * self.micro_batches, (step + 1) * self.micro_batches):
            batch = self.batches.batch(_POSITION + position, self.batch, 1.0)
            with self.accelerator.autocast():
                lesson = objective.lesson((DISCRIMINATOR,), batch, roles, keep_graph=False)
                loss = objective.loss(DISCRIMINATOR, lesson, roles, step)["loss"]
            yield loss

    def _objective(self, roles: NetworkRoles) -> AdversarialObjective:
        settings, batch = settings_of_heads(self.settings), self.any_batch
        heads = Discriminator(
            roles.teacher, roles.backbone, settings.discriminator, batch.x0, batch.conditions, settings.conditional
        )
        return AdversarialObjective(settings, self.supervision, heads)
