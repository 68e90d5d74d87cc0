"""`fewstep.evaluate`, `benchmark` and `export`: what the commands do, with the same options and the same figures."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fewstep
from fewstep.commands.benchmark import benchmark_command
from fewstep.commands.evaluate import evaluate_command
from fewstep.commands.export import export_command
from tests.commands.typed import fewstep as typed

MANY: Any = "many"
ONLY_TYPED = {"benchmark": {"ctx", "training", "settings", "stages"}}  # training is timed on the command line alone


@pytest.mark.parametrize(
    ("function", "command"),
    [(fewstep.evaluate, evaluate_command), (fewstep.benchmark, benchmark_command), (fewstep.export, export_command)],
    ids=lambda call: call.__module__.rpartition(".")[2],
)
def test_functions_take_what_commands_take(function: Callable[..., Any], command: Callable[..., Any]) -> None:
    """With the same defaults, but for `quiet`. An option that is new must be an argument in fewstep/api as well."""
    own = {name: one.default for name, one in inspect.signature(function).parameters.items() if name != "quiet"}
    its = {name: one.default for name, one in inspect.signature(command).parameters.items()}
    its = {name: value for name, value in its.items() if name not in ONLY_TYPED.get(function.__name__, ())}
    assert own.keys() == its.keys()
    assert {n: v for n, v in own.items() if n != "models"} == {n: v for n, v in its.items() if n != "models"}


def test_evaluate_gives_what_it_writes_and_what_the_command_gives(
    run: Path, tiny_wan_folder: Path, prompts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models: dict[str, str | Path] = {"teacher": f"{tiny_wan_folder}@4", "student": run}
    arguments: dict[str, Any] = {
        "prompts": prompts,
        "num": 4,
        "batch": 2,
        "device": "cpu",
        "metrics": ["psnr", "motion"],
    }
    results = fewstep.evaluate(models, out=tmp_path / "a", quiet=True, **arguments)
    assert capfd.readouterr() == ("", "")
    assert results == json.loads((tmp_path / "a" / "results.json").read_text())
    assert [row["model"] for row in results["rows"]] == ["teacher", "student"]
    assert results["command"].startswith("fewstep.evaluate(models=['teacher=") and "num=4" in results["command"]
    options = ["--prompts", prompts, "--num", 4, "--batch", 2, "--device", "cpu", "--metrics", "psnr,motion"]
    code, output = typed("evaluate", *(f"{n}={s}" for n, s in models.items()), *options, "--out", tmp_path / "b")
    assert code == 0, output
    other = json.loads((tmp_path / "b" / "results.json").read_text())
    assert {**other, "command": ""} == {**results, "command": ""}


def test_benchmark_gives_what_it_writes(run: Path, tiny_wan_folder: Path, tmp_path: Path) -> None:
    results = fewstep.benchmark(
        [f"{tiny_wan_folder}@2:2", f"student={run}"],
        out=str(tmp_path / "times.json"), repetitions=1, warmup=1, device="cpu", quiet=True,
    )  # fmt: skip
    assert results == json.loads((tmp_path / "times.json").read_text()) and not results["failed"]
    assert [row["steps"] for row in results["rows"]] == [2, 1]


def test_export_gives_the_folder(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = fewstep.export(run, "diffusers", str(tmp_path / "out"), step_count=2, device="cpu", quiet=True)
    assert folder == tmp_path / "out" and (folder / "model_index.json").is_file()
    assert capfd.readouterr() == ("", "")
    assert fewstep.load_pipeline(folder, device="cpu").contract.steps == 2


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda run: fewstep.evaluate(run, num=2), "num is 2: it must be from 3 to"),
        (lambda run: fewstep.evaluate(run, num=MANY), "num is 'many': input should be a valid integer"),
        (lambda run: fewstep.evaluate(run, seed=-1), "seed is -1"),
        (lambda run: fewstep.evaluate(run, dtype="half"), "dtype is 'half'"),
        (lambda run: fewstep.evaluate(run, guidance="much"), "guidance"),
        (lambda run: fewstep.evaluate(run, metrics=["fvdd"]), r"there is no metric fvdd \(did you mean fvd"),
        (lambda run: fewstep.evaluate(run, prompts="missing.txt"), r"missing\.txt"),
        (lambda run: fewstep.evaluate([]), "there are no models"),
        (lambda run: fewstep.evaluate({"a b": run}), "names no model"),
        (lambda run: fewstep.evaluate("shapes"), "pass out with a folder"),
        (lambda run: fewstep.benchmark(run, batch=0), "batch is 0"),
        (lambda run: fewstep.benchmark(run, quantise="int4"), "quantise is 'int4'"),
        (lambda run: fewstep.benchmark(run, shift=float("nan")), "shift is nan"),
        (lambda run: fewstep.benchmark(), "there is nothing to time"),
        (lambda run: fewstep.export(run, "gif", "out"), "to is 'gif'"),
        (lambda run: fewstep.export(run / "none", "diffusers", "out"), "there is no folder"),
        (
            lambda run: fewstep.export(run, "diffusers", run),
            "is there already: choose another out, or pass force to replace it",
        ),
        (lambda run: fewstep.export(run, "lora", "out", rank=0), "rank is 0"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    call: Callable[[Path], object], sentence: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=sentence) as error:
        call(run)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
