"""Run by every process that a launcher starts: each of the stages that it is told, up to a step.

python several_processes.py TEACHER DATA JOBS.json, with a list of {"case", "folder", "stop"}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from fewstep.distill.parallel import whole_tensor
from fewstep.distill.trainer import Trainer
from fewstep.teacher.base import load_teacher
from fewstep.teacher.interrupts import Signals
from tests.distill.one_stage import Case, after, ignore, weights

STAGES: dict[str, dict[str, Any]] = {
    "regression": {"kind": "progressive"},
    "adversarial": {"kind": "adversarial", "objective": {"kind": "adversarial", "warmup": 1, "mismatched": 0.5}},
    "adversarial-lora": {
        "kind": "adversarial",
        "objective": {
            "kind": "adversarial", "warmup": 1, "conditional": False, "real": "clips_at_data",
            "discriminator": {"backbone": "lora"},
        },
    },
    "adversarial-trained": {
        "kind": "adversarial",
        "objective": {"kind": "adversarial", "warmup": 1, "discriminator": {"backbone": "trained"}},
    },
}  # fmt: skip


def begin(case: Case, objective: str, train: Any, layout: Any, steps: int = 5) -> Trainer:
    return case.trainer(train=train, layout=layout, steps=steps, batch=8, **STAGES[objective])


def run(trainer: Trainer, stop: int = 0) -> None:
    if stop:
        trainer.run(*after(stop))
    else:
        trainer.run(ignore, Signals())


def end(trainer: Trainer, folder: Path) -> None:
    """Writes what was trained, whole, and the finished student, as a stage ends."""
    found = {name: whole_tensor(tensor).contiguous() for name, tensor in weights(trainer).items()}
    is_main = trainer.accelerator.is_main_process
    if is_main:
        save_file(found, folder / "weights.safetensors")
        (folder / "student").mkdir(exist_ok=True)
    trainer.roles.save(folder / "student" if is_main else None)


def main() -> None:
    torch.set_num_threads(1)
    teacher, data, jobs = sys.argv[1:]
    accelerator = Accelerator(cpu=True)
    case = Case(load_teacher(teacher, device="cpu"), Path(data), Path())
    for job in json.loads(Path(jobs).read_text()):
        case.folder = Path(job["folder"])
        trainer = begin(case, *job["case"])
        run(trainer, job.get("stop", 0))
        if not job.get("stop"):
            end(trainer, case.folder)
    accelerator.end_training()


if __name__ == "__main__":
    main()
