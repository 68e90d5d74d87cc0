"""One who moves: parameters, their optimizer, and the step that a turn ends with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fewstep.distill.gradients import average_gradients, clip_gradients
from fewstep.distill.parallel import fill, is_part


class Player:
    """Parameters trained by Adam, at `lr` times the scale of each step. Some may be sharded, and others not."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        clip: float,
    ) -> None:
        self.parameters = list(parameters)
        # groups of their own: torch handles all of a group's tensors in one go where it can
        kinds = [[p for p in self.parameters if is_part(p) == sharded] for sharded in (False, True)]
        groups = [{"params": kind} for kind in kinds if kind] or [{"params": []}]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay)
        self._lr, self._clip = lr, clip

    def gather(self, accelerator: Accelerator, loss: float = 0.0) -> float:
        """Averages the gradients over processes and clips them; returns their norm before that, and moves nothing.

        A loss that is not finite makes it so in every process, and none waits for another.
        """
        if not math.isfinite(loss):
            for parameter in self.parameters:
                parameter.grad = torch.full_like(parameter, math.nan)
        average_gradients(accelerator, self.parameters)
        return clip_gradients(accelerator, self.parameters, self._clip)

    def move(self, scale: float) -> None:
        """One step on the gradients, which are then cleared."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr * scale
        self.optimizer.step()
        self.clear()

    def clear(self) -> None:
        """Forgets the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The optimizer's, for a checkpoint: as torch says it of a single group, whatever is sharded."""
        own = self.optimizer.state
        state = {i: own[p] for i, p in enumerate(self.parameters) if p in own}
        group = {key: value for key, value in self.optimizer.param_groups[0].items() if key != "params"}
        return {"state": state, "param_groups": [group | {"params": list(range(len(self.parameters)))}]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` said, but for settings, which are this player's own; its tensors are whole.

        Raises ValueError, and whatever torch raises, where they do not fit.
        """
        if len(state["param_groups"][0]["params"]) != len(self.parameters):
            raise ValueError("its optimizer is of other parameters")
        self.begin(state["state"].keys())
        for i, saved in state["state"].items():
            own = self.optimizer.state[self.parameters[int(i)]]
            _check_moments(saved, own)
            for key, tensor in saved.items():
                fill(own[key], tensor)

    def begin(self, numbers: Iterable[int]) -> None:
        """Gives the parameters of these numbers, and no others, an optimizer's state, to be filled."""
        self.optimizer.state.clear()
        for i in numbers:
            parameter = self.parameters[int(i)]
            moments = {name: torch.zeros_like(parameter.detach()) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}


def _check_moments(saved: Mapping[str, Any], own: Mapping[str, Tensor]) -> None:
    if saved.keys() != own.keys() or bool((saved["exp_avg_sq"] < 0).any()):
        raise ValueError("what its optimizer remembers is not Adam's")
    if not 1 <= float(saved["step"]) < 2**53:
        raise ValueError(f"its optimizer has made {float(saved['step']):g} steps")
    for name, value in saved.items():
        if not isinstance(value, Tensor) or value.shape != own[name].shape or not value.is_floating_point():
            raise ValueError(f"what its optimizer remembers as {name} does not fit")


def as_numbers(figures: dict[str, Tensor]) -> dict[str, float]:
    """Scalars to numbers."""
    return {name: float(figure.detach()) for name, figure in figures.items()}
