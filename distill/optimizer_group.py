"""Parameters that are trained together: their optimizer, and the step that a turn ends with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fewstep.distill.few_bit_moments import has_blocks, held_alike, plain_moment, whole_blocks
from fewstep.distill.gradients import AveragedGradients, clip_gradients
from fewstep.distill.optimizers import MOMENTS, OptimizerKind, fresh_state, make_optimizer, step
from fewstep.distill.parallel import fill, is_shard


class OptimizerGroup:
    """Parameters trained by Adam, at `lr` times the scale of each step. Some may be sharded, and others not."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        clip: float,
        optimizer: OptimizerKind = "adamw",
    ) -> None:
        self.parameters = list(parameters)
        # groups of their own: torch handles all of a group's tensors in one go where it can
        kinds = [[p for p in self.parameters if is_shard(p) == sharded] for sharded in (False, True)]
        groups = [{"params": kind} for kind in kinds if kind] or [{"params": []}]
        self.optimizer = make_optimizer(optimizer, groups, lr, betas, weight_decay)
        self._lr, self._clip = lr, clip
        self._gradients: AveragedGradients | None = None

    def expect(self, accelerator: Accelerator) -> None:
        """The next backward pass is the last before `gather`: gradients are averaged while it goes on."""
        self._averaged(accelerator).expect()

    def gather(self, accelerator: Accelerator, loss: float = 0.0) -> float:
        """Averages the gradients over processes and clips them; returns their norm before that, and moves nothing.

        A loss that is not finite makes it so in every process, and none waits for another.
        """
        if not math.isfinite(loss):
            # in shards, too, which are not averaged here: their NaN reaches other processes through the common norm
            for parameter in self.parameters:
                parameter.grad = torch.full_like(parameter, math.nan)
        self._averaged(accelerator).finish(math.isfinite(loss))
        return clip_gradients(accelerator, self.parameters, self._clip)

    def _averaged(self, accelerator: Accelerator) -> AveragedGradients:
        if self._gradients is None:
            self._gradients = AveragedGradients(accelerator, self.parameters)
        return self._gradients

    def step(self, scale: float) -> None:
        """One step on the gradients, which are then cleared."""
        step(self.optimizer, self._lr * scale)
        self.clear()

    def clear(self) -> None:
        """Forgets the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """The optimizer's, for a checkpoint: as torch says it of a single group, in plain tensors, whatever is sharded
        or of few bits."""
        own = self.optimizer.state
        known = [(i, own[p]) for i, p in enumerate(self.parameters) if p in own]
        state = {i: {name: plain_moment(remembered) for name, remembered in of_one.items()} for i, of_one in known}
        group = {key: value for key, value in self.optimizer.param_groups[0].items() if key != "params"}
        return {"state": state, "param_groups": [group | {"params": list(range(len(self.parameters)))}]}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` said, but for settings, which are this group's own; its tensors are whole.

        Raises ValueError, and whatever torch raises, where they do not fit.
        """
        if len(state["param_groups"][0]["params"]) != len(self.parameters):
            raise ValueError("its optimizer is of other parameters")
        self.begin(state["state"].keys())
        for i, saved in state["state"].items():
            parameter = self.parameters[int(i)]
            own = {name: plain_moment(x) for name, x in self.optimizer.state[parameter].items()}
            alike = _as_held(self.optimizer, parameter, saved, own)
            _check_moments(alike, own)
            _fill(own, alike)

    def to_load(self, known: Mapping[int, Mapping[str, bool]]) -> dict[str, Any]:
        """`state` to be filled from a checkpoint that processes wrote together, of the parameters that it knows.

        known: number -> name of what is remembered -> whether it is there in blocks. What this process holds in another
        way is whole in the result, as the checkpoint has it; `take_loaded` brings it over.
        """
        self.begin(known)
        state = self.state()
        for i, of_one in known.items():
            own, parameter = state["state"][i], self.parameters[i]
            for name in MOMENTS:
                if name in of_one and of_one[name] != isinstance(own[name], Mapping) and has_blocks(self.optimizer):
                    blocks = whole_blocks(self.optimizer, parameter, name)
                    own[name] = plain_moment(blocks) if of_one[name] else blocks.dequantize()
        return state

    def take_loaded(self, state: Mapping[str, Any]) -> None:
        """Takes over what in a filled `to_load` is not the very memory of this optimizer."""
        for i, saved in state["state"].items():
            parameter = self.parameters[i]
            own = {name: plain_moment(x) for name, x in self.optimizer.state[parameter].items()}
            for name in MOMENTS:
                if isinstance(own[name], Mapping) != isinstance(saved[name], Mapping):
                    _fill({name: own[name]}, _as_held(self.optimizer, parameter, {name: saved[name]}, own))

    def begin(self, numbers: Iterable[int]) -> None:
        """Gives the parameters of these numbers, and no others, an optimizer's state, to be filled."""
        self.optimizer.state.clear()
        for i in numbers:
            parameter = self.parameters[int(i)]
            self.optimizer.state[parameter] = fresh_state(self.optimizer, parameter)


def _fill(own: Mapping[str, Any], whole: Mapping[str, Any]) -> None:
    """In place: codes and shards are the very memory that the optimizer holds."""
    for tensor, saved in zip(_tensors(own).values(), _tensors(whole).values(), strict=True):
        fill(tensor, saved)


def _as_held(
    optimizer: torch.optim.Optimizer, parameter: Tensor, saved: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Moments in blocks or in float32, as this process holds them."""
    return {
        name: held_alike(optimizer, parameter, name, value, own[name]) if name in MOMENTS and name in own else value
        for name, value in saved.items()
    }


def _check_moments(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if saved.keys() != own.keys():
        raise ValueError("what its optimizer remembers is not Adam's")
    for name in MOMENTS:
        if isinstance(saved[name], Mapping) != isinstance(own[name], Mapping):
            raise ValueError("its optimizer remembers in another number of bits")
    ours, theirs = _tensors(own), _tensors(saved)
    for name in ours.keys() | theirs.keys():
        value, like = theirs.get(name), ours.get(name)
        if not isinstance(value, Tensor) or like is None or value.shape != like.shape or value.dtype != like.dtype:
            raise ValueError(f"what its optimizer remembers as {name} does not fit")
    # second moments and the scales of blocks are never negative
    if any(bool((theirs[name] < 0).any()) for name in theirs if name.startswith("exp_avg_sq") or "scale" in name):
        raise ValueError("what its optimizer remembers is not Adam's")
    if not 1 <= float(saved["step"]) < 2**53:
        raise ValueError(f"its optimizer has made {float(saved['step']):g} steps")


def _tensors(of_one: Mapping[str, Any]) -> dict[str, Any]:
    """Of a parameter, by their names, in an order of their own."""
    tensors: dict[str, Any] = {}
    for name in sorted(of_one):
        parts = of_one[name] if isinstance(of_one[name], Mapping) else {"": of_one[name]}
        tensors |= {f"{name} {part}".strip(): parts[part] for part in sorted(parts)}
    return tensors


def as_numbers(figures: dict[str, Tensor]) -> dict[str, float]:
    """Scalars to numbers."""
    return {name: float(figure.detach()) for name, figure in figures.items()}
