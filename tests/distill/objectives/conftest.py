"""Roles and batches of the tiny teacher."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
from torch import Tensor, nn

from fewstep.distill.draws import Draws
from fewstep.distill.objectives.base import Batch, NetworkRoles, Objective
from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions

SHAPE = (16, 2, 2, 4)
PROMPTS = ["a red circle", "a big blue square moves left over a dark background"]


@dataclass(frozen=True)
class Cast:
    """Roles with full training: every network is a copy."""

    teacher: Teacher
    student: nn.Module
    supervisor: nn.Module
    backbone: nn.Module


def take(objective: Objective[Any], turn: str, batch: Batch, roles: NetworkRoles, step: int) -> dict[str, Tensor]:
    """One turn, as a round of its own."""
    lesson = objective.lesson((turn,), batch, roles, keep_graph=False)
    return objective.loss(turn, lesson, roles, step)


@pytest.fixture
def roles(tiny_teacher: Teacher) -> NetworkRoles:
    """A student that is its supervisor's exact copy, with gradients, next to a frozen supervisor and backbone."""
    network = tiny_teacher.network_at(1.0)
    return Cast(tiny_teacher, deepcopy(network).requires_grad_(True), deepcopy(network), network)


@pytest.fixture(scope="session")
def conditions(tiny_teacher: Teacher) -> Conditions:
    return tiny_teacher.conditions(PROMPTS)


@pytest.fixture
def make_batch(tiny_teacher: Teacher, conditions: Conditions) -> Callable[..., Batch]:
    """(seed, progress=0.0, copies=1) -> a batch of 2 clips, or of copies of them."""

    def make(seed: int, progress: float = 0.0, copies: int = 1) -> Batch:
        x0 = tiny_teacher.noise([10, 11], SHAPE).repeat(copies, 1, 1, 1, 1)
        return Batch(x0, Conditions.join([conditions] * copies), Draws.seeded(seed, 2 * copies), progress)

    return make
