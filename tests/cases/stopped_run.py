"""A relay small enough to be stopped twenty times, and what is there of it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.cases.child_commands import Command, last_line

STEPS = {"4-step": 90, "2-step": 40}
RECIPE: dict[str, Any] = {
    "seed": 3,
    "device": "cpu",
    "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 4, "guidance": 2.0, "batch": 2},
    "logging": {"every": 1, "samples_every": 15, "prompts": ["a ring"], "save_seconds": 0.5},
    "stages": [
        {
            "teacher_steps": 8, "student_steps": 4, "guidance": 2.0, "steps": STEPS["4-step"], "batch": 2,
            "objective": {"kind": "progressive"},
        },
        {
            "teacher_steps": 4, "student_steps": 2, "steps": STEPS["2-step"], "batch": 2, "betas": [0, 0.99],
            "objective": {"kind": "adversarial", "warmup": 5, "discriminator": {"width": 8}},
        },
    ],
}  # fmt: skip


def write_recipe(folder: Path, teacher: Path, **changes: Any) -> Path:
    """The recipe of `teacher`'s relay, in a folder of its own."""
    (folder / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(8)))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE | {"teacher": str(teacher), "out": str(folder / "run")} | changes))
    return path


def curves(run: Path) -> dict[str, list[dict[str, float]]]:
    """Every stage's points."""
    return {
        path.stem: [json.loads(x) for x in path.read_text().splitlines()] for path in run.glob("curves/[!.]*.jsonl")
    }


def weights(run: Path) -> dict[str, bytes]:
    """The bytes of every student."""
    return {path.parent.name: path.read_bytes() for path in sorted(run.glob("stages/*/*.safetensors"))}


def results(run: Path) -> dict[str, dict[str, float]]:
    """What each stage measured, but for the seconds it took."""
    contents = {path.parent.name: json.loads(path.read_text()) for path in sorted(run.glob("stages/*/result.json"))}
    return {name: {key: x for key, x in result.items() if key != "train_seconds"} for name, result in contents.items()}


def saved(run: Path) -> tuple[str, int]:
    """The stage and step of the checkpoint."""
    if not (run / "state.pt").exists():
        return "", 0
    state = torch.load(run / "state.pt", weights_only=True)
    return state["stage"], state["step"]


def steps_kept(run: Path) -> int:
    """Steps of finished stages and of the checkpoint: what a kill would leave."""
    finished = [path.parent.name for path in run.glob("stages/*/contract.json")]
    stage, step = saved(run)
    return sum(STEPS[name] for name in finished) + (0 if stage in finished else step)


def steps_done(run: Path) -> int:
    """Steps that have their points on the curves, the last of which may be half written."""
    # what begins with a dot is being written, and may be gone by now
    lines = [line for path in run.glob("curves/[!.]*.jsonl") for line in path.read_text().splitlines()]
    return sum(line.endswith("}") and "student/loss" in line for line in lines)


def trained(run: Path, steps: int) -> Callable[[], bool]:
    """Ready once so many steps were done."""
    return lambda: steps_done(run) >= steps


@dataclass(frozen=True)
class Stopped:
    """One stop: its exit code and last line; the steps that were done when the signal came, and that are kept now."""

    code: int | None
    line: str
    output: str
    done: int
    kept: int
    checkpoint: tuple[str, int]


def stop_somewhere(run: Path, arguments: list[object], log: Path, rng: random.Random, number: int) -> Stopped:
    """Starts the command and sends it a signal: at some moment of its start, or so many steps later."""
    before, ahead = steps_done(run), rng.choice([0, 0, 1, 2, 4, 8, 12])
    child = Command(log, *arguments)
    end = time.monotonic() + (120 if ahead else rng.uniform(0, 2))
    while child.runs and time.monotonic() < end and not 0 < ahead <= steps_done(run) - before:
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.1))
    done = steps_done(run)
    child.send(number)
    code, output = child.finish()
    return Stopped(code, last_line(output), output, done, steps_kept(run), saved(run))
