"""One training loop for networks that are no students: progress, TensorBoard, checkpoints, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.tensorboard.writer import SummaryWriter

from fewstep.teacher.files.atomic import disk_full_as_oserror, whole_file
from fewstep.teacher.filter_muon import FilterMuon
from fewstep.teacher.interrupts import RESUME, Signals, Stop, noted_signals
from fewstep.teacher.lr_scale import lr_scale
from fewstep.teacher.screen import SILENT, TrainingScreen

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
        return self.lr * lr_scale(step, self.steps, self.warmup, self.cooldown)


def train_network(
    name: str,
    folder: Path,
    modules: Mapping[str, nn.Module],
    losses: Losses,
    budget: Budget,
    watch: Callable[[int], Mapping[str, float]] | None = None,
    watch_every: int = 500,
    screen: TrainingScreen = SILENT,
) -> None:
    """Trains `modules` in place for `budget.steps` steps and leaves their EMA in them.

    `folder` keeps `state.pt` (resumed from when there) and TensorBoard logs. `watch(step)` is called now and then on
    the EMA and returns figures to log. Raises ValueError when loss or gradient stop being finite, before the weights
    do; the last good state is kept. A signal that asks to stop ends the step it meets, saves and raises Stop; one that
    asks to save is met after the step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(folder / "state.pt", nn.ModuleDict(dict(modules)), budget)
    # curves of steps behind the checkpoint are dropped: they are drawn again
    with disk_full_as_oserror(folder / "tensorboard"):
        writer = SummaryWriter(str(folder / "tensorboard"), purge_step=state.step + 1)
    saved = time.monotonic()
    with screen.stage(name, budget.steps, state.step) as on_step, noted_signals() as signals:
        try:
            while state.step < budget.steps and not signals.stop:
                # one optimizer step; curves keep every tenth loss
                terms = losses(state.step)
                state.update(name, terms["loss"])
                if state.step % 10 == 0:
                    for key, loss in terms.items():
                        writer.add_scalar(f"{name}/{key}", float(loss.detach()), state.step)
                # figures are of the EMA, which is what remains in the modules at the end
                if watch is not None and (state.step % watch_every == 0 or state.step == budget.steps):
                    for key, figure in state.watched(watch, signals).items():
                        writer.add_scalar(f"{name}/{key}", figure, state.step)
                        screen.say(f"{name}: {key} {figure:.4g} at step {state.step}")
                on_step(state.step, float(terms["loss"].detach()))
                if signals.save or time.monotonic() - saved > budget.save_seconds:
                    state.save()
                    saved = time.monotonic()
                if signals.save:
                    signals.save = False
                    screen.say(f"{name} step {state.step}: saved in {state.path}; training continues")
        finally:
            # also after an error, unless it came between the weights and their EMA
            if state.whole:
                state.save()
            writer.close()
    if signals.stop:
        kept = f"{name} is at step {state.step} of {budget.steps}, saved in {state.path}"
        raise Stop(signals.stop, f"{kept}; {RESUME}")
    state.network.load_state_dict(state.average)


def losses_by_time(error: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Mean errors of clips (B,) at low, middle and high times t (B,), where there are any, as a step's losses."""
    spans = {(low, high): (t >= low) & (t < high) for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 1.0))}
    return {f"loss t {low:.1f}-{high:.1f}": error[rows].mean() for (low, high), rows in spans.items() if rows.any()}


def psnr_of_mse(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a mean squared error on the range -1..1."""
    return 10 * torch.log10(4 / mse.clamp_min(math.ulp(0.0)))


class _State:
    """Network, EMA, optimizers and step count: what a checkpoint holds, good while `whole`."""

    def __init__(self, path: Path, network: nn.ModuleDict, budget: Budget) -> None:
        self.path, self.network, self.budget = path, network, budget
        self.optimizers = _optimizers(network, budget)
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self.step, self.whole = 0, True
        if path.exists():
            self._load()
        self._saved_step = self.step

    def update(self, name: str, loss: Tensor) -> None:
        """One optimizer step on a loss, and one of the EMA."""
        loss.backward()
        # before the step: weights that are not finite could not be saved as the last good ones
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        if not (math.isfinite(float(loss.detach())) and math.isfinite(float(norm))):
            raise ValueError(
                f"{name}: loss {float(loss.detach())} with gradient {float(norm)} at step {self.step}; the weights "
                f"before it are in {self.path}: lower the learning rate in the recipe and run again"
            )
        # from here weights and EMA are of different steps, which no checkpoint may hold
        self.whole = False
        for optimizer in self.optimizers:
            multiple = 1.0 if isinstance(optimizer, torch.optim.AdamW) else self.budget.muon_lr
            for group in optimizer.param_groups:
                group["lr"] = multiple * self.budget.lr_at(self.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.budget.ema, (1 + self.step) / (10 + self.step))  # early steps must not linger
        for key, value in self.network.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value, 1 - decay)
            else:
                self.average[key].copy_(value)
        self.whole = True

    def watched(self, watch: Callable[[int], Mapping[str, float]], signals: Signals) -> Mapping[str, float]:
        """The figures of `watch` on the EMA; none when a request to stop cuts it short."""
        self.whole = False
        with self.averaged():
            figures = signals.attempt(lambda: watch(self.step))
        self.whole = True
        return figures or {}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The network holds the EMA inside the `with` block."""
        outside = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        try:
            yield
        finally:
            self.network.load_state_dict(outside)

    def save(self) -> None:
        """Writes the checkpoint, whole or not at all, unless this step's was written, or could not be."""
        due, self._saved_step = self.step != self._saved_step, self.step
        if not due:
            return
        state: dict[str, Any] = {"network": self.network.state_dict(), "average": self.average, "step": self.step}
        state["optimizers"] = [optimizer.state_dict() for optimizer in self.optimizers]
        with whole_file(self.path) as part, part.open("wb") as file:  # open: a full disk is an OSError then
            torch.save(state, file)

    def _load(self) -> None:
        try:
            # no pickle: to load one could run its code
            saved = torch.load(self.path, weights_only=True, map_location="cpu")
            self.network.load_state_dict(saved["network"])
            for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(state)
            for key, value in saved["average"].items():
                self.average[key].copy_(value)
            self.step = int(saved["step"])
        except (RuntimeError, KeyError, ValueError, EOFError, OSError, UnpicklingError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"{self.path} is broken or of another recipe ({reason}): delete its folder to train it again"
            ) from error


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
    # Muon takes what the budget names, and AdamW all the rest
    taken = {id(p) for p in chosen}
    rest = [p for _, p in named if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=budget.lr, betas=(0.9, 0.98))]
    # updates as large as AdamW's, so that one learning rate serves both
    if budget.muon == "blocks":
        optimizers.append(torch.optim.Muon(chosen, lr=budget.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"))
    elif budget.muon == "filters":
        optimizers.append(FilterMuon(chosen, budget.lr))
    return optimizers
