"""The loop of one stage: turns, checkpoints, curves. It knows of the objective only whose turn it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from fewstep.distill.batches import Batches
from fewstep.distill.checkpoint import load_state, save_state
from fewstep.distill.curves import Curves
from fewstep.distill.objectives.base import STUDENT, Objective
from fewstep.distill.player import Player, any_process, as_numbers
from fewstep.distill.settings import Logging, Stage
from fewstep.distill.trackers import NoTracker, Tracker
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.teacher.lr_scale import lr_scale
from fewstep.teacher.screen import OnStep


class Trainer:
    """Trains `roles.student`, and what the objective trains beside it, for `stage.steps` steps.

    `folder` is the run's: its checkpoint is resumed when it is this stage's, and refused with another contract than
    `contract`. `samples(step)`, if given, is called on the moving average every `logging.samples_every` steps.
    """

    def __init__(
        self,
        stage: Stage,
        roles: Roles,
        objective: Objective,
        batches: Batches,
        contract: SamplingContract,
        accelerator: Accelerator,
        logging: Logging,
        folder: Path,
        samples: Callable[[int], dict[str, float]] | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.stage, self.roles, self.objective = stage, roles, objective
        self.batches, self.accelerator, self.logging, self.folder = batches, accelerator, logging, folder
        self.contract, self.samples, self.tracker = contract, samples, tracker or NoTracker()
        self.modules = {name: player.module for name, player in objective.players().items()}
        self.players = {
            STUDENT: Player(roles.parameters.values(), stage.lr, stage.betas, stage.weight_decay, stage.clip)
        }
        for name, player in objective.players().items():
            trained = [p for p in player.module.parameters() if p.requires_grad]
            self.players[name] = Player(trained, player.lr, player.betas, 0.0, stage.clip)
        self.step, self.drawn, self.seconds = 0, 0, 0.0
        self._whole = True  # False from a step's first move to its last
        self._resume()

    def run(self, on_step: OnStep, interrupted: Callable[[], bool]) -> None:
        """Trains to the end of the stage, or until `interrupted`; either way the checkpoint is written.

        Raises ValueError when a loss or gradient is not finite. The checkpoint then holds the step before it, or, where
        another player has moved in that step already, what was written last: half a step is never kept.
        """
        curves = Curves(self.folder, self.stage.name, self.accelerator, self.tracker, self.step)
        saved = time.monotonic()
        try:
            while self.step < self.stage.steps and not any_process(self.accelerator, interrupted()):
                began = time.monotonic()
                figures = self._one_step()
                self.seconds += time.monotonic() - began  # of training alone, without samples and what they measure
                if (self.step - 1) % self.logging.every == 0 or self.step == self.stage.steps:
                    curves.write(self.step, figures)
                if self.samples and self.step % self.logging.samples_every == 0:
                    with self.roles.averaged():
                        curves.write(self.step, self.samples(self.step))
                on_step(self.step, figures[f"{STUDENT}/loss"])
                if time.monotonic() - saved > self.logging.save_seconds:
                    self.save()
                    saved = time.monotonic()
        finally:
            if self.step and self._whole:
                self.save()
            curves.close()

    def _one_step(self) -> dict[str, float]:
        """Every turn of one step; returns the figures of each player's last turn."""
        figures: dict[str, float] = {}
        drawn = self.drawn
        try:
            for turn in self.objective.turns(self.step):
                figures |= {f"{turn}/{name}": value for name, value in self._turn(turn).items()}
        except BaseException:
            self.drawn = drawn
            raise
        # the average of few steps must not hold on to where the student began
        self.roles.update_average(min(self.stage.ema, (self.step + 1) / (self.step + 10)))
        self.step += 1
        self._whole = True
        return figures

    def _turn(self, turn: str) -> dict[str, float]:
        stage, player, total = self.stage, self.players[turn], dict[str, float]()
        for _ in range(stage.accumulate):
            batch = self.batches.batch(self.drawn, stage.batch // stage.accumulate, self.step / stage.steps)
            with self.accelerator.autocast():
                figures = self.objective.loss(turn, batch, self.roles, self.step)
            self.accelerator.backward(figures["loss"] / stage.accumulate)
            self.drawn += 1
            for name, value in as_numbers(figures).items():
                total[name] = total.get(name, 0.0) + value / stage.accumulate
        # the student's rise is not for others: a discriminator's own warm-up lies within the first step as a whole
        scale = lr_scale(self.step, stage.steps, stage.warmup if turn == STUDENT else 0, stage.cooldown)
        before, self._whole = self._whole, False
        norm = player.step(self.accelerator, scale, total["loss"])
        if not math.isfinite(norm):
            self._whole = before  # nothing moved
            raise ValueError(
                f"stage {stage.name}: the {turn}'s loss is {total['loss']:g} and its gradient {norm:g} at step "
                f"{self.step}; what was trained before is kept: lower its learning rate in the recipe, and train it "
                f"again with --again {stage.name}"
            )
        return total | {"gradient": norm, "lr_scale": scale}

    def save(self) -> None:
        """Writes the checkpoint."""
        if self.accelerator.is_main_process:
            save_state(self.folder, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "stage": self.stage.name,
            "step": self.step,
            "drawn": self.drawn,
            "seconds": self.seconds,
            "contract": self.contract.model_dump(mode="json"),
            "student": {name: p.detach() for name, p in self.roles.parameters.items()},
            "average": self.roles.average,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizers": {name: player.state() for name, player in self.players.items()},
        }

    @torch.no_grad()
    def _resume(self) -> None:
        state = load_state(self.folder, self.stage.name)
        if state is None:
            return
        try:
            other = self.contract.differences(SamplingContract.model_validate(state["contract"]))
            if other:
                raise ValueError(f"it is of a student with another {', '.join(other)}")
            for name, parameter in self.roles.parameters.items():
                parameter.copy_(state["student"][name])
                self.roles.average[name].copy_(state["average"][name])
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
            for name, player in self.players.items():
                player.optimizer.load_state_dict(state["optimizers"][name])
            self.step, self.drawn, self.seconds = state["step"], state["drawn"], state["seconds"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"the checkpoint in {self.folder} does not fit stage {self.stage.name} ({str(error).splitlines()[0]}): "
                "delete its state.pt to begin the stage again"
            ) from error
