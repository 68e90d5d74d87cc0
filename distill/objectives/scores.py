"""The discriminator's accuracy at each transition, and its number of steps in the next training step."""

from __future__ import annotations

import torch
from pydantic import model_validator
from torch import Tensor, nn

from fewstep.distill.objectives.base import Fraction, Settings
from fewstep.distill.processes import sum_over_processes
from fewstep.teacher.limited import NumSteps

MEMORY = 0.9  # of the running averages, per turn that sees the transition


class Balance(Settings):
    """Keeps discriminator and student level, by the discriminator's accuracy.

    Below `low` it has `most` turns in a step, so that it keeps up with the student; above `high` it has none, until
    the student has caught up; in between it has `discriminator_steps`. The student waits as well: at a transition where
    accuracy is below `low` its adversarial loss counts less, and at chance not at all, because a discriminator that is
    wrong there gives no useful gradient.
    """

    low: Fraction = 0.6
    """Accuracy under which it has the most turns, and the student follows it less; above 0.5, which is chance."""
    high: Fraction = 0.9
    """Accuracy above which it waits."""
    most: NumSteps = 3
    """Turns in a step while it is under `low`."""

    @model_validator(mode="after")
    def _in_order(self) -> Balance:
        if not 0.5 < self.low < self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}: low must be above 0.5 and below high")
        return self

    def turns(self, accuracy: float, usual: int) -> int:
        """Of the discriminator in the next step."""
        if accuracy < self.low:
            return max(usual, self.most)
        return 0 if accuracy > self.high else usual

    def trust(self, accuracy: Tensor) -> Tensor:
        """How much the student follows the discriminator, 0 (at chance) to 1 (from `low` on); of the same shape."""
        return ((accuracy - 0.5) / (self.low - 0.5)).clamp(0, 1)


def of_transition(name: str, end: float) -> str:
    """The name of a figure of the transition that ends at the time `end`."""
    return f"{name}_to_{end:.3g}"


class Scores(nn.Module):
    """Running averages of accuracy and logits, one per transition, as buffers on the CPU: checkpoints keep them.

    Accuracy is the share of pairs in which the real one has the higher logit, over clips and heads. Averages begin
    at the first pair that is seen; until then accuracy counts as chance. `memory` is what an average keeps of itself in
    each turn; with None every pair counts the same.
    """

    def __init__(self, num_transitions: int, memory: float | None = MEMORY) -> None:
        super().__init__()
        self.memory = memory
        self.averages: Tensor
        self.weights: Tensor
        self.register_buffer("averages", torch.zeros(3, num_transitions, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(num_transitions, dtype=torch.float64))

    @torch.no_grad()
    def update(self, transition: Tensor, real: Tensor, fake: Tensor) -> None:
        """transition (B,) int64 on the CPU; logits (B, heads), those of one pair at the same place."""
        # per clip the mean over heads: 1 if every head ranks the real one of the pair higher, 0.5 at chance
        pairs = torch.stack([(real > fake).double(), real.double(), fake.double()]).mean(dim=2).cpu()
        sums, counts = torch.zeros_like(self.averages), torch.zeros_like(self.weights)
        sums.index_add_(1, transition, pairs)
        counts.index_add_(0, transition, torch.ones(len(transition), dtype=torch.float64))
        # all processes keep the same averages, so that all of them take the same number of turns next
        total = sum_over_processes(torch.cat([sums, counts[None]]), real.device)
        seen = total[3] > 0
        new, keep = total[:3, seen] / total[3, seen], self.weights[seen]
        add: Tensor | float = total[3, seen]
        if self.memory is not None:  # bias-corrected, as Adam's moments are: the first turn counts whole
            keep, add = self.memory * keep, 1 - self.memory
        self.averages[:, seen] = (keep * self.averages[:, seen] + add * new) / (keep + add)
        self.weights[seen] = keep + add

    @property
    def accuracies(self) -> Tensor:
        """Of each transition, float64 (transitions,)."""
        return torch.where(self.weights > 0, self.averages[0], 0.5)

    @property
    def accuracy(self) -> float:
        """The mean over the transitions that were seen; chance while none was."""
        seen = self.averages[0][self.weights > 0]
        return float(seen.mean()) if len(seen) else 0.5

    def figures(self, ends: Tensor) -> dict[str, Tensor]:
        """accuracy, logits_real and logits_fake of each transition, by the time (transitions,) at which it ends."""
        names = ("accuracy", "logits_real", "logits_fake")
        return {
            of_transition(name, end): self.averages[row, column].clone()
            for row, name in enumerate(names)
            for column, end in enumerate(ends.tolist())
            if self.weights[column] > 0
        }
