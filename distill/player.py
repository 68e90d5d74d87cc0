"""One who moves: parameters, their optimizer, and the step that a turn ends with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Player:
    """Parameters trained by Adam, at `lr` times what `step` is told."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        clip: float,
    ) -> None:
        self.parameters = list(parameters)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=lr, betas=betas, weight_decay=weight_decay)
        self._lr, self._clip = lr, clip

    def step(self, accelerator: Accelerator, scale: float, loss: float = 0.0) -> float:
        """One step on the gradients, averaged over processes and clipped; returns their norm, nothing moves if it is
        not finite. A loss that is not finite makes it so in every process, and none waits for another."""
        if not math.isfinite(loss):
            for parameter in self.parameters:
                parameter.grad = torch.full_like(parameter, math.nan)
        average_gradients(accelerator, self.parameters)
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self._clip))
        if torch.isfinite(torch.tensor(norm)):
            for group in self.optimizer.param_groups:
                group["lr"] = self._lr * scale
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> dict[str, Any]:
        """The optimizer's, for a checkpoint."""
        return self.optimizer.state_dict()


def average_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Averages gradients over processes. Adapters share a network and a turn may skip parameters, so no wrapper such
    as DistributedDataParallel fits; one flat tensor is as fast."""
    if accelerator.num_processes == 1:
        return
    parameters = list(parameters)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat: Any = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
    for parameter, found in zip(parameters, flat.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = found.view_as(parameter)


def any_process(accelerator: Accelerator, wish: bool) -> bool:
    """Whether one of the processes wishes it: all hear the same, so that they stop at the same step."""
    if accelerator.num_processes == 1:
        return wish
    count: Any = accelerator.reduce(torch.tensor(float(wish), device=accelerator.device), "sum")
    return bool(count)


def as_numbers(figures: dict[str, Tensor]) -> dict[str, float]:
    """Scalars to numbers."""
    return {name: float(figure.detach()) for name, figure in figures.items()}
