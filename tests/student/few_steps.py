"""A student that has learned something, whatever it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fewstep.student.denoiser import Roles
from fewstep.teacher.base import Teacher


def train(roles: Roles, ask: Callable[[Teacher, nn.Module], Tensor], steps: int = 2) -> None:
    """A few steps that change the student and its average; `ask` gives the network's answer."""
    optimizer = torch.optim.Adam(roles.parameters.values(), lr=1e-2)
    for _ in range(steps):
        ask(roles.teacher, roles.student).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        roles.update_average(0.5)
