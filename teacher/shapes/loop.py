"""One training loop for the embedded world's networks: progress, TensorBoard, checkpoints, exact resume."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter

from fewstep.teacher.shapes.filter_muon import FilterMuon

# The losses of a step by name; the one called "loss" is minimised. Everything random in it must follow from the
# step number alone: that is what makes a resumed run equal an uninterrupted one.
Losses = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True)
class Budget:
    """How long to train and how: `lr` rises over `warmup` steps, stays, and falls to zero over the last `cooldown`."""

    steps: int
    lr: float
    warmup: int = 50
    cooldown: float = 0.3  # fraction of the steps
    ema: float = 0.999
    muon: Literal["none", "blocks", "filters"] = "none"  # what Muon steps instead of AdamW
    muon_lr: float = 1.0  # Muon's learning rate, as a multiple of AdamW's
    save_seconds: float = 120.0

    def lr_at(self, step: int) -> float:
        """Learning rate of a step, 0-based."""
        left = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return self.lr * min(1.0, (step + 1) / self.warmup, left)


def train(
    name: str,
    folder: Path,
    modules: Mapping[str, nn.Module],
    losses: Losses,
    budget: Budget,
    watch: Callable[[int], Mapping[str, float]] | None = None,
    watch_every: int = 500,
) -> None:
    """Trains `modules` in place for `budget.steps` steps and leaves their moving average in them.

    `folder` keeps `state.pt` (resumed from when there) and TensorBoard logs. `watch(step)` is called now and then on
    the moving average and returns figures to log. Raises ValueError when the loss stops being finite; the last
    checkpoint is kept. Ctrl-C saves before it stops.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = nn.ModuleDict(dict(modules))
    average = _Average(network, budget.ema)
    optimizers = _optimizers(network, budget)
    step = _resume(folder / "state.pt", network, average, optimizers)
    writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step)
    saved = time.monotonic()

    def save() -> None:
        state = {"network": network.state_dict(), "average": average.state, "step": step}
        save_atomically({**state, "optimizers": [o.state_dict() for o in optimizers]}, folder / "state.pt")

    with _progress() as progress:
        bar = progress.add_task(name, total=budget.steps, completed=step, loss=math.nan)
        try:
            while step < budget.steps:
                found = losses(step)
                value = float(found["loss"].detach())
                if not math.isfinite(value):
                    raise ValueError(
                        f"{name}: the loss is {value} at step {step}; the last checkpoint is {folder / 'state.pt'}: "
                        "lower the learning rate in the recipe and run again"
                    )
                found["loss"].backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                for optimizer in optimizers:
                    multiple = 1.0 if isinstance(optimizer, torch.optim.AdamW) else budget.muon_lr
                    for group in optimizer.param_groups:
                        group["lr"] = multiple * budget.lr_at(step)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=True)
                step += 1
                average.update(network, step)
                if step % 10 == 0:
                    for key, loss in found.items():
                        writer.add_scalar(f"{name}/{key}", float(loss.detach()), step)
                    progress.update(bar, completed=step, loss=value)
                if watch is not None and (step % watch_every == 0 or step == budget.steps):
                    with average.applied(network):
                        for key, figure in watch(step).items():
                            writer.add_scalar(f"{name}/{key}", figure, step)
                            progress.console.print(f"{name} step {step}: {key} {figure:.4g}")
                if time.monotonic() - saved > budget.save_seconds:
                    save()
                    saved = time.monotonic()
        finally:
            if step:
                save()
            writer.close()
    average.copy_to(network)


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """torch.save that never leaves a half-written file under `path`."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:  # an open file, so that a full disk is an OSError and not torch's riddle
        torch.save(dict(state), file)
    os.replace(part, path)


class _Average:
    """Exponential moving average of a network's weights, warmed up so that early steps do not linger."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {k: v.detach().clone() for k, v in network.state_dict().items()}

    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[key].lerp_(value, 1 - decay)

    def copy_to(self, network: nn.Module) -> None:
        network.load_state_dict(self.state)

    def applied(self, network: nn.Module) -> _Swapped:
        return _Swapped(network, self.state)


class _Swapped:
    """The network holds other weights inside the `with` block."""

    def __init__(self, network: nn.Module, state: dict[str, Tensor]) -> None:
        self.network, self.inside = network, state

    def __enter__(self) -> None:
        self.outside = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.inside)

    def __exit__(self, *_: object) -> None:
        self.network.load_state_dict(self.outside)


def _optimizers(network: nn.Module, budget: Budget) -> list[torch.optim.Optimizer]:
    """AdamW, with weight decay on matrices only, and Muon (Jordan et al. 2024) for what the budget names."""
    named = list(network.named_parameters())
    match budget.muon:
        case "blocks":  # the matrices of transformer blocks
            chosen = [p for n, p in named if p.ndim == 2 and ".blocks." in n]
        case "filters":  # convolutions, but for those of a few channels
            chosen = [p for _, p in named if p.ndim >= 4 and min(p.flatten(1).shape) >= 12]
        case "none":
            chosen = []
    taken = {id(p) for p in chosen}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=budget.lr, betas=(0.9, 0.98))]
    if budget.muon == "blocks":
        found.append(torch.optim.Muon(chosen, lr=budget.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    elif budget.muon == "filters":
        found.append(FilterMuon(chosen, budget.lr))
    return found


def _resume(path: Path, network: nn.Module, average: _Average, optimizers: list[torch.optim.Optimizer]) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    network.load_state_dict(state["network"])
    average.state = state["average"]
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
