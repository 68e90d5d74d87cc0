"""Run by every process of a run: each of the stages that it is told, up to a step, or until it fails.

python several_processes.py TEACHER DATA JOBS.json, with a list of jobs; `processes` starts two.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from fewstep.distill import stage_checkpoint
from fewstep.distill.around import around
from fewstep.distill.parallel import whole_tensor
from fewstep.distill.processes import check_same, set_process_timeout
from fewstep.distill.trainer import Trainer
from fewstep.student.few_bits import FewBits, base_of
from fewstep.student.recompute import Recompute
from fewstep.teacher.interrupts import Signals
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.ranks import join_processes
from tests.distill.one_stage import EVERY_STEP, Case, after, ignore, weights
from tests.forked import Scripts

OBJECTIVES: dict[str, dict[str, Any]] = {
    "regression": {"objective": {"kind": "progressive"}, "starts": [1.0, 0.6, 0.5]},
    "adversarial": {"objective": {"kind": "adversarial", "warmup": 1, "mismatched": 0.5}},
    "adversarial-lora": {
        "objective": {
            "kind": "adversarial", "warmup": 1, "conditional": False, "real": "clips_at_data", "anchor": {"weight": 0},
            "discriminator": {"backbone": "lora"},
        },
    },
    "adversarial-trained": {
        "objective": {"kind": "adversarial", "warmup": 1, "discriminator": {"backbone": "trained"}}
    },
    "adversarial-samples": {
        "objective": {
            "kind": "adversarial", "warmup": 1, "conditional": False, "judges": "sample", "through": "drawn",
            "anchor": {"weight": 0},
        },
    },
}  # fmt: skip


class Layout(NamedTuple):
    """What is trained how, and held how."""

    objective: str
    train: str
    kind: str
    optimizer: str = "adamw"
    base: FewBits | None = None
    background: bool = False  # how checkpoints are written, one after every step
    context: int = 1
    recompute: Recompute = False  # in the backward pass


class Job(NamedTuple):
    """A stage in a folder. stop: the step behind which it is stopped, or 0; fails: how the second process ends, or what
    is wrong with the disk."""

    layout: Layout
    folder: str
    stop: int = 0
    fails: str = ""


def begin(case: Case, layout: Layout, steps: int = 5) -> Trainer:
    """The stage, as it was left in the case's folder."""
    held: dict[str, Any] = {"train": layout.train, "layout": layout.kind, "optimizer": layout.optimizer}
    held |= {"context": layout.context, "recompute": layout.recompute}
    if layout.background:
        held["logging"] = EVERY_STEP
    stage = OBJECTIVES[layout.objective]
    if "adversarial" in layout.objective:
        # heads of the usual width take most of the time, but only large ones have moments of few bits
        width = {"width": 64 if "bit" in layout.optimizer else 8}
        objective = stage["objective"]
        stage = stage | {"objective": objective | {"discriminator": objective.get("discriminator", {}) | width}}
    return case.trainer(**held, steps=steps, batch=8, **stage)


def run(trainer: Trainer, stop: int = 0) -> None:
    """To the end, or behind this step."""
    trainer.run(*(after(stop) if stop else (ignore, Signals())))


def end(trainer: Trainer, folder: Path) -> None:
    """Writes what was trained, whole, and the finished student, as a stage ends."""
    tensors = {name: whole_tensor(tensor).contiguous() for name, tensor in weights(trainer).items()}
    is_main = trainer.accelerator.is_main_process
    if is_main:
        save_file(tensors, folder / "weights.safetensors")
        (folder / "student").mkdir()
    trainer.roles.save(folder / "student" if is_main else None)


def processes(teacher: Path, data: Path, jobs: Sequence[Job], folder: Path) -> Scripts:
    """Two processes of one run, as a launcher starts them."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    return Scripts(2, __file__, teacher, data, folder / "jobs.json", logs=folder)


def _failing(how: str) -> Callable[[int, float], None]:
    def on_step(step: int, loss: float) -> None:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("the disk of node 1 is broken")

    return on_step


def _run_with_slow_disk(trainer: Trainer) -> None:
    """One process writes the checkpoint of step 1 for longer than processes wait for one another."""
    signals = Signals()

    def slowly(save: Callable[..., None]) -> Callable[..., None]:
        def slow(folder: Path, state: dict[str, Any]) -> None:
            if state["step"] == 1:
                time.sleep(5)
            save(folder, state)

        return slow

    def on_step(step: int, loss: float) -> None:
        signals.save = step == 1

    set_process_timeout(minutes=2 / 60)
    with around(stage_checkpoint, "save_state", slowly):
        trainer.run(on_step, signals)


def main() -> None:
    """Every job; a failure is a sentence in the last line of stderr, as of `fewstep run`."""
    torch.set_num_threads(1)
    teacher, data, jobs = sys.argv[1:]
    join_processes(cpu=True)
    accelerator = Accelerator(cpu=True)
    case = Case(load_teacher(teacher, device="cpu"), Path(data), Path())
    for layout, *rest in json.loads(Path(jobs).read_text()):
        job = Job(Layout(*layout), *rest)
        with base_of(case.teacher, job.layout.base):
            _do(job, case, accelerator)
    accelerator.end_training()


def _do(job: Job, case: Case, accelerator: Accelerator) -> None:
    case.folder = Path(job.folder)
    if job.fails == "elsewhere" and accelerator.process_index:
        case.folder /= "another disk"
        case.folder.mkdir()
    trainer = begin(case, job.layout)
    try:
        check_same(accelerator, {"step": str(trainer.step)}, "let them share a disk")
        if job.fails in ("killed", "raises") and accelerator.process_index:
            trainer.run(_failing(job.fails), Signals())
        if job.fails == "slow disk":
            _run_with_slow_disk(trainer)
        run(trainer, job.stop)
    except ValueError as error:
        print(f"\nsentence: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    if not job.stop:
        end(trainer, case.folder)


if __name__ == "__main__":
    main()
