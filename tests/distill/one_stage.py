"""One stage of a tiny teacher, and ways to stop it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from fewstep.distill.batches import Batches
from fewstep.distill.objectives.base import Objective
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.parallel import Layout, Parallel, gathered
from fewstep.distill.settings import Logging, Stage
from fewstep.distill.trainer import Trainer
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles, Train
from fewstep.teacher.base import Teacher
from fewstep.teacher.interrupts import Signals

QUIET = Logging(tracker="none", every=1)
SMALL = {"warmup": 2, "discriminator": {"width": 8}}  # usual heads take most of a tiny stage's time
EVERY_STEP = Logging(tracker="none", every=1, save_seconds=1e-9, save_in_background=True)


@dataclass
class Case:
    """One stage of a tiny teacher, begun as often as asked."""

    teacher: Teacher
    data: Path
    folder: Path

    def trainer(
        self,
        kind: str = "progressive",
        train: Train = "full",
        layout: Any = "ddp",
        context: int = 1,
        recompute: Any = False,
        optimizer: Any = "adamw",
        average: Any = "device",
        logging: Any = QUIET,
        **stage: Any,
    ) -> Trainer:
        """Of several processes each calls it."""
        accelerator = Accelerator(cpu=True)
        held = Layout(Parallel(kind=layout, context=context), accelerator)
        torch.manual_seed(0)
        settings = Stage.model_validate(
            {
                "name": "s", "teacher_steps": 4, "student_steps": 2, "steps": 6, "batch": 4, "lr": 1e-3, "warmup": 1,
                "objective": {"kind": kind} | (SMALL if kind == "adversarial" else {}),
            }
            | stage
        )  # fmt: skip
        held.prepare(self.teacher)
        roles = Roles(self.teacher, train, rank=4, average=average)
        if recompute:
            roles.checkpoint_gradients(recompute)
        roles.place(held.placing(self.teacher), gathered)
        alone = Batches(self.data, self.teacher, seed=0, stage=0)
        return Trainer(
            settings,
            roles,
            self.objective(settings, roles, alone),
            Batches(self.data, self.teacher, seed=0, stage=0, rank=held.group, world_size=held.num_groups),
            self.contract(settings, train),
            accelerator,
            logging,
            self.folder,
            optimizer=optimizer,
            num_groups=held.num_groups,
        )

    def contract(self, stage: Stage, train: Train) -> SamplingContract:
        size = self.teacher.default_size()
        assert size is not None
        return SamplingContract.of(self.teacher, "tiny", stage.student_steps, train, size, 1.0, "", 8.0)

    def objective(self, stage: Stage, roles: Roles, batches: Batches) -> Objective[Any]:
        supervision = Supervision(stage.teacher_steps, stage.student_steps)
        return stage.objective.build(supervision, roles, batches.batch(0, 1, 0.0))

    def curve(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "curves" / "s.jsonl").read_text().splitlines()]


def ignore(step: int, loss: float) -> None:
    pass


def after(steps: int, number: int = signal.SIGTERM) -> tuple[Callable[[int, float], None], Signals]:
    """A run's `on_step` and `signals` that stop it after so many steps."""
    signals = Signals()
    return lambda step, loss: signals.receive(number) if step >= steps else None, signals


def weights(trainer: Trainer) -> dict[str, Tensor]:
    tensors = {name: p.detach().clone() for name, p in trainer.roles.parameters.items()}
    return tensors | {f"average {name}": p.clone() for name, p in trainer.roles.average.items()}
