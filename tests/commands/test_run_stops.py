"""`fewstep run` is asked to stop at every kind of moment, and ends as one that was not."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import torch
import yaml

from fewstep.distill.trainer import Trainer
from tests.commands.test_run import RECIPE, curves, weights
from tests.commands.typed import fewstep

STAGES: Any = RECIPE["stages"]
GATE = {"metric": "endpoint_error", "at_most": 1000.0}


@pytest.fixture
def recipe(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("".join(f"prompt {i}\n" for i in range(4)))
    stages = [STAGES[0] | {"steps": 4, "gate": GATE}, STAGES[1] | {"steps": 3}]
    data = RECIPE["data"] | {"batch": 1}  # type: ignore[operator]
    settings = RECIPE | {"data": data, "stages": stages, "teacher": str(tiny_wan_folder), "device": "cpu"}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def signalled(monkeypatch: pytest.MonkeyPatch, target: str, call: int, number: int = signal.SIGTERM) -> None:
    """A signal comes as `target` is called for the `call`-th time."""
    place, _, attribute = target.rpartition(".")
    owner = resolve_name(place)
    original: Callable[..., Any] = getattr(owner, attribute)
    calls = [0]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            signal.raise_signal(number)
        return original(*arguments, **named)

    monkeypatch.setattr(owner, attribute, wrapped)


def results(run: Path) -> dict[str, dict[str, float]]:
    contents = {path.parent.name: json.loads(path.read_text()) for path in run.glob("stages/*/result.json")}
    return {name: {k: v for k, v in result.items() if k != "train_seconds"} for name, result in contents.items()}


MOMENTS = [  # what is called, for which time, and what the sentence says of it
    ("fewstep.teacher.load_teacher.load_teacher", 1, "run the same command again to resume: what was finished is kept"),
    ("fewstep.teacher.dataset.sources.text_tensors", 3, "2 of the 4 items of OUT/data are done"),
    ("fewstep.commands.run_watch.samples", 1, "what was finished is kept"),
    ("fewstep.distill.stages.Roles", 1, "stage 4-step is next"),
    ("fewstep.distill.trainer.Trainer.one_step", 1, "stage 4-step is at step 1 of 4, saved in OUT/state.pt"),
    ("fewstep.distill.stages.endpoint_error", 1, "stage 4-step is at step 2 of 4, saved in OUT/state.pt"),
    ("fewstep.distill.stage_checkpoint.save_state", 1, "stage 4-step is at step 3 of 4, saved in OUT/state.pt"),
    ("fewstep.distill.stages.Relay._gate_metric", 1, "stage 4-step is at step 4 of 4, saved in OUT/state.pt"),
    ("fewstep.distill.run_folder.RunFolder.finish", 1, "stage 2-step is next"),
    (
        "fewstep.distill.optimizer_group.OptimizerGroup.step",
        1,
        "stage 2-step is at step 0 of 3 (warm-up rounds done: 1), saved in OUT/state.pt",
    ),
    ("fewstep.distill.optimizer_group.OptimizerGroup.step", 1, "stage 2-step is at step 1 of 3, saved in OUT/state.pt"),
    ("fewstep.distill.curves.Curves.write", 1, "stage 2-step is at step 2 of 3, saved in OUT/state.pt"),
]
SOME = [  # of these: amid data, a step, a checkpoint that is being written, the end of a stage, and a warm-up
    MOMENTS[1],
    MOMENTS[4],
    ("fewstep.distill.stage_checkpoint.save_state", 1, "stage 4-step is at step 2 of 4, saved in OUT/state.pt"),
    MOMENTS[8],
    MOMENTS[9],
]


@pytest.mark.parametrize(
    "moments", [SOME, pytest.param(MOMENTS, marks=pytest.mark.slow)], ids=["some moments", "every kind of moment"]
)
def test_a_run_that_is_stopped_again_and_again_ends_as_another(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: list[tuple[str, int, str]]
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "stopped"
    often = ["--set", "logging.save_seconds=1e-9"]
    assert fewstep("run", recipe, "--set", f"out={whole}")[0] == 0
    for target, call, kept in moments:
        with monkeypatch.context() as patched:
            signalled(patched, target, call)
            code, output = fewstep("run", recipe, *often, "--set", f"out={out}")
        assert code == 143, output
        last = output.strip().splitlines()[-1]
        assert last.startswith("stopped by SIGTERM; ") and kept.replace("OUT", str(out)) in last, (target, last)
        assert not list(out.rglob("*.part*"))
    code, output = fewstep("run", recipe, *often, "--set", f"out={out}")
    assert code == 0, output
    assert weights(out) == weights(whole) and curves(out) == curves(whole) and results(out) == results(whole)


def test_a_warning_saves_and_the_run_goes_on(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, kept, one_step = tmp_path / "run", dict[tuple[str, int], int](), Trainer.one_step

    def look(trainer: Trainer, *stop: Callable[[], bool]) -> dict[str, float]:
        if (out / "state.pt").exists():
            kept[trainer.stage.name, trainer.step] = torch.load(out / "state.pt", weights_only=True)["step"]
        return one_step(trainer, *stop)

    monkeypatch.setattr(Trainer, "one_step", look)
    signalled(monkeypatch, "fewstep.distill.trainer.Trainer.one_step", 2, signal.SIGUSR1)
    code, output = fewstep("run", recipe, "--set", f"out={out}")
    assert code == 0 and kept == {("4-step", 2): 2, ("4-step", 3): 2}, output
    assert f"stage 4-step is at step 2 of 4, saved in {out / 'state.pt'}; training continues" in output


def test_memory_that_runs_out_names_the_settings_that_are_left(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", recipe, "--set", f"out={tmp_path / 'run'}")
    lessons = Trainer.lessons

    def full(trainer: Trainer, turns: tuple[str, ...]) -> Any:
        if trainer.step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return lessons(trainer, turns)

    free = ["--set", "gradient_checkpointing=true", "--set", "average=cpu"]
    of_stage = ["--again", "4-step", "--set", "stages.4-step.accumulate=2"]
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "lessons", full)
        code, output = fewstep(*command)
        assert code == 2
        assert (
            "stage 4-step: memory ran out in step 3; its first 2 steps are kept: run the same command again with "
            f"{' '.join(free)}, or with {' '.join(of_stage)}, or in a new `out` with"
        ) in " ".join(output.split())
        _, output = fewstep(*command, *free)
        assert "gradient_checkpointing" not in output.split("memory ran out")[1]  # what is set is not offered
    assert fewstep(*command, *free)[0] == 0


def test_a_stage_that_has_begun_is_not_left_out(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apart = [word for name in ("start", "teacher") for word in ("--set", f"stages.1.{name}=base")]
    command = ("run", recipe, "--set", f"out={tmp_path / 'run'}", *apart)
    with monkeypatch.context() as patched:
        signalled(patched, "fewstep.distill.trainer.Trainer.one_step", 2)  # of 4-step
        assert fewstep(*command)[0] == 143
    for options in (["--dry-run"], []):
        code, output = fewstep(*command, "--stages", "2-step", *options)
        assert code == 2 and "4-step is left out, and" in output and "has a checkpoint of it" in output, output
    code, output = fewstep(*command, "--stages", "4-step")
    assert code == 0 and "4-step: resumed at step" in output and "2-step is left out" in output, output
