"""Runs in trackers (point 15): one run each, every point once, clips and settings, also after a stop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.commands.test_run import write_recipe
from tests.commands.typed import fewstep
from tests.distill import test_trackers
from tests.distill.test_trackers import recipe, train_all, wandb_runs

Check = Callable[..., None]
fake_wandb = test_trackers.fake_wandb


@pytest.fixture
def tracked(check_case: Check) -> Check:
    """tracked(case, got, expected)"""
    return partial(check_case, "15 trackers")


def run(folder: Path, teacher: Path, tracker: str, *more: str) -> tuple[int, str]:
    settings = [f"logging.tracker={tracker}", "logging.prompts=[a ring, a box]", *more]
    return fewstep("run", write_recipe(folder, teacher), *(word for one in settings for word in ("--set", one)))


def test_a_whole_run_in_tensorboard(tracked: Check, tmp_path: Path, tiny_wan_folder: Path) -> None:
    code, output = run(tmp_path, tiny_wan_folder, "tensorboard")
    assert code == 0, output
    board: Any = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    tracked("TensorBoard: stages", sorted(board.Runs()), "['1-step', '2-step', '4-step']")
    tracked("steps of the loss", [e.step for e in board.Scalars("4-step", "student/loss")], "[1, 2, 3]")
    clips = board.Images("4-step", "samples/1")
    tracked("clips at steps", [clip.step for clip in clips], "[2, 3]")
    tracked("as", clips[0].encoded_image_string[:6], "b'GIF89a'")
    content = board.SummaryMetadata("2-step", "_hparams_/session_start_info").plugin_data.content
    facts = HParamsPluginData.FromString(content).session_start_info.hparams
    tracked("hyper-parameters: objective.kind", facts["objective.kind"].string_value, "adversarial")
    (text,) = {e.tensor_proto.string_val[0] for e in board.Tensors("1-step", "recipe/text_summary")}
    tracked("the recipe as text", text.decode(), ["teacher_steps: 8", "student_steps: 4", "seed: 3"])


@pytest.mark.slow  # tests/distill/test_trackers.py has its runs, points and clips without a relay
def test_a_whole_run_in_wandb(tracked: Check, tmp_path: Path, tiny_wan_folder: Path, fake_wandb: Any) -> None:
    code, output = run(tmp_path, tiny_wan_folder, "wandb")
    assert code == 0, output
    (arguments,) = fake_wandb.asked
    tracked("wandb: project and name", (arguments["project"], arguments["name"]), "('fewstep', 'run')")
    tracked("runs of three stages", len(fake_wandb.runs), "1")
    logged = fake_wandb.runs[0].logged
    names = {key.split("/")[0] for _, values in logged for key in values}
    tracked("stages lead the names", sorted(names), "['1-step', '2-step', '4-step', 'relay_step']")
    steps = [step for step, _ in logged]
    tracked("steps of the relay only grow", steps == sorted(steps) and steps[-1], "7")
    tracked("settings", sorted(arguments["config"]), ["data", "logging", "stages", "teacher"])
    clips = [values["4-step/samples/0"] for _, values in logged if "4-step/samples/0" in values]
    tracked("clips", clips, "[('0.mp4', 'a ring', 'mp4'), ('0.mp4', 'a ring', 'mp4')]")
    run(tmp_path, tiny_wan_folder, "wandb")
    tracked("run again: the same id", fake_wandb.asked[1]["id"] == arguments["id"], "True")
    tracked("and nothing twice", fake_wandb.runs[1].logged, "[]")


def test_stops_between(tracked: Check, tmp_path: Path, fake_wandb: Any) -> None:
    train_all(recipe(tmp_path / "run", "wandb"))
    sent = [step for one in fake_wandb.runs for step, values in one.logged if "8-step/student/loss" in values]
    tracked("killed at step 5, resumed at 3, on to 6", sent, "[1, 2, 3, 4, 5, 6]")


@pytest.mark.slow  # as above
def test_another_project(tracked: Check, tmp_path: Path, tiny_wan_folder: Path, fake_wandb: Any) -> None:
    run(tmp_path, tiny_wan_folder, "wandb", "logging.project=corgis", *(f"stages.{i}.steps=1" for i in range(3)))
    tracked("logging.project=corgis", fake_wandb.asked[0]["project"], "corgis")
    code, output = run(tmp_path, tiny_wan_folder, "wandb", "logging.project=")
    tracked("an empty project", (code, output), ["(2,", "logging.project"])


def test_no_login(tracked: Check, tmp_path: Path, tiny_wan_folder: Path, fake_wandb: Any) -> None:
    def refused(**settings: Any) -> None:
        raise fake_wandb.errors.Error("api_key not configured (no-tty)")

    fake_wandb.init = refused
    code, output = run(tmp_path, tiny_wan_folder, "wandb")
    tracked("wandb without a login", (code, output), ["(2,", "wandb did not start (api_key", "WANDB_MODE=offline"])
    tracked("data made before it was found", (tmp_path / "run" / "data").exists(), "False")


def test_not_installed(tracked: Check, tmp_path: Path, tiny_wan_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "trackio"):
        monkeypatch.setitem(sys.modules, name, None)
        code, output = run(tmp_path, tiny_wan_folder, name)
        tracked(f"{name} is not installed", (code, output), ["(2,", f"is {name}, which is not installed"])


@pytest.mark.slow
def test_wandb_offline(tracked: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train_all(recipe(tmp_path / "run", "wandb"))
    runs, points = wandb_runs(tmp_path / "run" / "wandb")
    tracked("wandb itself, offline: ids of three starts", len({one.run_id for one in runs}), "1")
    tracked("its points", [p["relay_step"] for p in points if "8-step/student/loss" in p], "[1, 2, 3, 4, 5, 6]")


@pytest.mark.slow
def test_trackio_offline(tracked: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    plan = recipe(tmp_path / "here", "trackio")
    project = f"cases-{tmp_path.name}"
    train_all(plan.model_copy(update={"logging": plan.logging.model_copy(update={"project": project})}))
    tracked("trackio itself: runs", [one.name for one in trackio.Api().runs(project)], "['here']")
    steps = [row["step"] for row in SQLiteStorage.get_logs(project, "here") if "8-step/student/loss" in row]
    tracked("its points", steps, "[1, 2, 3, 4, 5, 6]")
