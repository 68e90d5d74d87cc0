"""How well real and student can be told apart: heads trained from scratch on a finished student.

A discriminator at chance is inconclusive, because it may lag behind the student. Heads that are trained from scratch
until they see what there is give a figure that can be compared between students.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
# further batches, on which the heads learn nothing; where the data are few clips, of the same with other noise
HELD_OUT = 32
_SEED = 0  # of the heads' first weights


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

    They read a frozen backbone, whatever the stage's discriminator trains. `batch`: clips at a time.
    """

    settings: Adversarial
    supervision: Supervision
    batches: BatchSource
    batch: int
    any_batch: Batch
    accelerator: Accelerator

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
        for position in range(self.settings.probe):
            loss = self._judge(learning, roles, position)["loss"]
            self.accelerator.backward(alike * loss)
            # the norm of a gradient that is not finite is not finite in all processes: heads stay as they were
            if math.isfinite(group.gather(self.accelerator, float(loss.detach()))):
                group.step(1.0)
            else:
                group.clear()
        # then pairs with noise that the heads did not learn from
        positions = range(self.settings.probe, self.settings.probe + HELD_OUT)
        with torch.no_grad():
            for position in positions:
                self._judge(held_out, roles, position)
        pairs, right = held_out.scores.weights, held_out.scores.accuracies  # of all processes
        ends = held_out.ends(roles.teacher.schedule).tolist()
        drawn = {end: float(right[i]) for i, end in enumerate(ends) if pairs[i]}
        return HeldOut(float((right * pairs).sum() / pairs.sum()), round(float(pairs.sum()) / alike), drawn)

    def _judge(self, objective: AdversarialObjective, roles: NetworkRoles, position: int) -> dict[str, Tensor]:
        batch = self.batches.batch(_POSITION + position, self.batch, 1.0)
        with self.accelerator.autocast():
            lesson = objective.lesson((DISCRIMINATOR,), batch, roles, keep_graph=False)
            return objective.loss(DISCRIMINATOR, lesson, roles, position)

    def _objective(self, roles: NetworkRoles) -> AdversarialObjective:
        frozen = self.settings.discriminator.model_copy(update={"backbone": "frozen"})
        # real against student alone: neither mismatched prompts, nor a balance, which paces a student's training
        settings = self.settings.model_copy(update={"discriminator": frozen, "mismatched": 0.0, "balance": None})
        heads = Discriminator(
            roles.teacher, roles.backbone, frozen, self.any_batch.x0, self.any_batch.conditions, settings.conditional
        )
        return AdversarialObjective(settings, self.supervision, heads)
