"""A discriminator whose logits are known: it shows what objectives hand to theirs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fewstep.distill.objectives.adversarial import AdversarialObjective
from fewstep.distill.objectives.adversarial_settings import Adversarial
from fewstep.distill.objectives.base import TimedMethod
from fewstep.distill.objectives.supervision import Supervision
from fewstep.teacher.conditions import Conditions

RELAXED: dict[str, Any] = {
    "conditional": False,
    "r1": 0.0,
    "r2": 0.0,
    "noise": {"kind": "levels", "levels": [0.0], "weights": [1]},
}


class Ruler(nn.Module):
    """Stands in for a discriminator: its logit is a number times the sum of z_s; keeps what it was given."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(slope))
        self.asked: list[tuple[Any, ...]] = []

    def forward(self, z_s: Tensor, s: Tensor, conditions: Conditions, starts: Any = None) -> Tensor:
        self.asked.append((z_s, s, conditions, starts))
        return self.slope * z_s.flatten(1).sum(dim=1, keepdim=True)

    def read(self, z: Tensor, t: Tensor, conditions: Conditions) -> list[Tensor]:
        return [z, t]

    def timed(self) -> list[TimedMethod]:
        return []


def ruled(supervision: Supervision, slope: float = 0.01, **settings: Any) -> tuple[AdversarialObjective, Ruler]:
    ruler: Any = Ruler(slope)
    return AdversarialObjective(Adversarial.model_validate(settings), supervision, ruler), ruler
