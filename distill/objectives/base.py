"""What an objective is to the trainer: who moves in a step, and what each of them minimises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions

STUDENT = "student"


class Settings(BaseModel):
    """Frozen; unknown names are refused. A field's docstring is what editors show for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Roles(Protocol):
    """Who is who in a stage. The networks are for `network=` of the teacher's methods."""

    @property
    def teacher(self) -> Teacher:
        """The adapter through which every network is asked."""

    @property
    def student(self) -> nn.Module:
        """The network that is trained."""

    @property
    def supervisor(self) -> nn.Module:
        """The network whose endpoints the student learns: the teacher's own, or an earlier stage's student."""

    @property
    def backbone(self) -> nn.Module:
        """The teacher's own network, untouched: what a discriminator reads features from."""


@dataclass(frozen=True)
class Batch:
    """What one turn learns from. All that is random in the turn comes from `generator`."""

    x0: Tensor  # (B, C, F, h, w) clean latents
    conditions: Conditions
    generator: torch.Generator  # on the CPU
    progress: float  # 0..1 of the stage

    def noise(self) -> Tensor:
        """Unit noise like x0, drawn on the CPU: the device does not matter."""
        return torch.randn(self.x0.shape, generator=self.generator).to(self.x0)


@dataclass(frozen=True)
class Trainee:
    """What an objective trains beside the student, and Adam's settings for it."""

    module: nn.Module
    lr: float
    betas: tuple[float, float]


class Objective(Protocol):
    """One method of distillation."""

    def players(self) -> dict[str, Trainee]:
        """What it trains beside the student, by name: {} or {"discriminator": ...}."""

    def turns(self, step: int) -> Sequence[str]:
        """Who moves in this step of the student, in order: ("student",) or ("discriminator", "student")."""

    def loss(self, turn: str, batch: Batch, roles: Roles, step: int) -> dict[str, Tensor]:
        """Scalars by name: "loss" is minimised and sends gradient only to whose turn it is, the others are logged.

        The figures that are logged may differ from step to step.
        """
