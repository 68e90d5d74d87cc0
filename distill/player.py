"""One who moves: parameters, their optimizer, and the step that a turn ends with."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fewstep.distill.processes import average_gradients


class Player:
    """Parameters trained by Adam, at `lr` times the scale of each step."""

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

    def gather(self, accelerator: Accelerator, loss: float = 0.0) -> float:
        """Averages the gradients over processes and clips them; returns their norm before that, and moves nothing.

        A loss that is not finite makes it so in every process, and none waits for another.
        """
        if not math.isfinite(loss):
            for parameter in self.parameters:
                parameter.grad = torch.full_like(parameter, math.nan)
        average_gradients(accelerator, self.parameters)
        return float(nn.utils.clip_grad_norm_(self.parameters, self._clip))

    def move(self, scale: float) -> None:
        """One step on the gradients, which are then cleared."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr * scale
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def load(self, state: dict[str, Any]) -> None:
        """What `state` gave, but for settings, which are this player's own.

        Raises ValueError, and whatever torch raises, for what is not of these parameters.
        """
        own = [{name: value for name, value in group.items() if name != "params"} for group in self._groups]
        self.optimizer.load_state_dict(state)
        for group, settings in zip(self._groups, own, strict=True):
            group |= settings
        for parameter, held in self.optimizer.state.items():
            if held.keys() != {"step", "exp_avg", "exp_avg_sq"} or bool((held["exp_avg_sq"] < 0).any()):
                raise ValueError("what its optimizer remembers is not Adam's")
            if not 1 <= float(held["step"]) < 2**53:
                raise ValueError(f"its optimizer has made {float(held['step']):g} steps")
            for name, value in held.items():
                shape = () if name == "step" else parameter.shape
                if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
                    raise ValueError(f"what its optimizer remembers as {name} does not fit")

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def state(self) -> dict[str, Any]:
        """The optimizer's, for a checkpoint."""
        return self.optimizer.state_dict()


def as_numbers(figures: dict[str, Tensor]) -> dict[str, float]:
    """Scalars to numbers."""
    return {name: float(figure.detach()) for name, figure in figures.items()}
