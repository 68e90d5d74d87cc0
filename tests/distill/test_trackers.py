"""Trackers: a run is one run in each of them, a resume repeats no point, and clips and settings are there, too."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from fewstep.distill import trackers
from fewstep.distill.curves import Curves
from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.distill.tracker import NoTracker
from fewstep.distill.trackers import check_tracker, open_tracker
from fewstep.teacher.videos.writing import write_video

PROMPTS = ("a red ring", "a box")


def recipe(out: Path, tracker: str) -> Recipe:
    out.mkdir(parents=True, exist_ok=True)
    settings = [f"logging.tracker={tracker}", f"out={out}", f"logging.prompts={json.dumps(PROMPTS)}"]
    return read_recipe("shapes-4step", settings)


def train(plan: Recipe, stage: str, start: int, end: int) -> None:
    """What a stage tells its tracker from a checkpoint at `start` to a stop at `end`; clips every second step."""
    with open_tracker(plan) as tracker:
        curves = Curves(plan.out, stage, Accelerator(cpu=True), tracker, start)
        for step in range(start + 1, end + 1):
            curves.write(step, {"student/loss": 1 / step})
            if step % 2 == 0:
                folder = plan.out / "samples" / stage / f"step-{step:06d}"
                folder.mkdir(parents=True, exist_ok=True)
                for i in range(len(PROMPTS)):
                    write_video(folder / f"{i}.mp4", np.full((5, 16, 16, 3), 40 * step, np.uint8), 8)
                tracker.clips(stage, step, folder)
                tracker.clips(stage, step, folder)  # as the last step's, which are made twice
                curves.write(step, {"endpoint_error": 0.1 / step})
        curves.close()


def train_all(plan: Recipe) -> None:
    """Killed at step 5 with a checkpoint at 3, then through to the second stage."""
    train(plan, "8-step", 0, 5)
    train(plan, "8-step", 3, 6)
    train(plan, "4-step", 0, 2)


def test_tensorboard_has_every_point_once_clips_that_move_and_settings(tmp_path: Path) -> None:
    train_all(recipe(tmp_path / "run", "tensorboard"))
    board: Any = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "run" / "tensorboard"))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("4-step", "student/loss")] == [(1, 1.0), (2, 0.5)]
    assert [e.step for e in board.Scalars("8-step", "student/loss")] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in board.Scalars("8-step", "endpoint_error")] == [2, 4, 6]
    clips = board.Images("8-step", "samples/1")
    assert [clip.step for clip in clips] == [2, 4, 6]
    assert clips[0].encoded_image_string.startswith(b"GIF89a") and clips[0].width == 16
    content = board.SummaryMetadata("8-step", "_hparams_/session_start_info").plugin_data.content
    facts = HParamsPluginData.FromString(content).session_start_info.hparams
    assert facts["student_steps"].number_value == 8 and facts["objective.kind"].string_value == "progressive"
    (text,) = {e.tensor_proto.string_val[0] for e in board.Tensors("8-step", "recipe/text_summary")}
    assert b"teacher: shapes" in text


def wandb_records(folder: Path) -> list[Any]:
    """What wandb keeps offline, in the order of its runs: its files are LevelDB logs of protobuf records."""
    from wandb.proto import wandb_internal_pb2

    records = []
    for path in sorted(folder.glob("offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:  # the rest of a block is empty
                at += 32768 - at % 32768
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
            if kind in (1, 4):  # whole, or the last piece
                records.append(wandb_internal_pb2.Record.FromString(whole))
                whole = b""
    return records


def wandb_runs(folder: Path) -> tuple[list[Any], list[dict[str, Any]]]:
    """The runs and the points of three starts; wandb's other process may still be writing them."""
    records, end = list[Any](), time.monotonic() + 20
    while sum(r.WhichOneof("record_type") == "exit" for r in records) < 3 and time.monotonic() < end:
        records = wandb_records(folder)
    points = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in r.history.item}
        for r in records
        if r.WhichOneof("record_type") == "history"
    ]
    return [r.run for r in records if r.WhichOneof("record_type") == "run"], points


def test_wandb_has_one_run_with_every_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train_all(recipe(tmp_path / "my-run", "wandb"))
    runs, points = wandb_runs(tmp_path / "my-run" / "wandb")
    assert {(r.project, r.display_name) for r in runs} == {("fewstep", "my-run")} and len({r.run_id for r in runs}) == 1
    assert "stages" in {item.key for item in runs[0].config.update}
    losses = [(p["relay_step"], p["8-step/student/loss"]) for p in points if "8-step/student/loss" in p]
    assert losses == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4, 5, 6)]
    later = [p["relay_step"] for p in points if "4-step/student/loss" in p]
    assert later == [481, 482]  # behind the 480 steps of the first stage
    assert sum(p.get("8-step/samples/0/_type") == "video-file" for p in points) == 3


def test_trackio_has_one_run_with_every_point_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    plan = recipe(tmp_path / "here" / "my-run", "trackio")
    project = f"fewstep-{tmp_path.name}"  # trackio reads TRACKIO_DIR but once in a process
    plan = plan.model_copy(update={"logging": plan.logging.model_copy(update={"project": project})})
    train_all(plan)
    (run,) = trackio.Api().runs(project)
    assert run.name == "my-run" and run.config["teacher"] == "shapes"
    rows = SQLiteStorage.get_logs(project, "my-run")
    losses = [(row["step"], row["8-step/student/loss"]) for row in rows if "8-step/student/loss" in row]
    assert losses == [(step, pytest.approx(1 / step)) for step in (1, 2, 3, 4, 5, 6)]
    assert [row["step"] for row in rows if "8-step/samples/0" in row] == [2, 4, 6]
    other = plan.model_copy(update={"out": tmp_path / "there" / "my-run"})
    other.out.mkdir(parents=True)
    train(other, "8-step", 0, 2)  # another folder of this name is another run
    assert len({one.name for one in trackio.Api().runs(project)}) == 2


class FakeRun:
    """Stands for a run of wandb or trackio."""

    def __init__(self) -> None:
        self.step, self.logged, self.finished = 0, list[tuple[int, dict[str, Any]]](), list[Any]()

    def log(self, values: dict[str, Any], step: int) -> None:
        self.step = step
        self.logged.append((step, values))

    def define_metric(self, *names: str, **settings: Any) -> None: ...

    def finish(self, **settings: Any) -> None:
        self.finished.append(settings)


@pytest.fixture
def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """wandb without wandb: what it is called with."""

    class Error(Exception):
        """As wandb.errors.Error."""

    fake: Any = ModuleType("wandb")
    fake.runs, fake.asked, fake.errors = [], [], ModuleType("wandb.errors")
    fake.errors.Error, fake.Video = Error, lambda path, caption, format: (Path(path).name, caption, format)

    def init(**settings: Any) -> FakeRun:
        fake.asked.append(settings)
        fake.runs.append(FakeRun())
        return fake.runs[-1]

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    yield fake


def test_wandb_is_asked_for_the_same_run_again(tmp_path: Path, fake_wandb: Any) -> None:
    train_all(recipe(tmp_path / "run", "wandb"))
    first, *later = fake_wandb.asked
    assert first["project"] == "fewstep" and first["name"] == "run" and first["resume"] == "allow"
    assert first["config"]["stages"][0]["name"] == "8-step" and first["dir"] == str(tmp_path / "run")
    assert all(one == first for one in later) and len(first["id"]) == 8
    sent = [(step, sorted(values)) for run in fake_wandb.runs for step, values in run.logged]
    assert [step for step, names in sent if "8-step/student/loss" in names] == [1, 2, 3, 4, 5, 6]
    assert [step for step, names in sent if "8-step/samples/1" in names] == [2, 4, 6]
    clips = next(values for _, values in fake_wandb.runs[0].logged if "8-step/samples/1" in values)
    assert clips["8-step/samples/1"] == ("1.mp4", "a box", "mp4")
    assert [run.finished for run in fake_wandb.runs] == [[{"exit_code": 0}]] * 3


def test_wandb_hears_of_a_failure_and_of_another_project(tmp_path: Path, fake_wandb: Any) -> None:
    plan = recipe(tmp_path / "run", "wandb")
    plan = plan.model_copy(update={"logging": plan.logging.model_copy(update={"project": "corgis"})})
    with pytest.raises(ValueError, match="a gate"), open_tracker(plan):
        raise ValueError("a gate")
    assert fake_wandb.asked[0]["project"] == "corgis" and fake_wandb.runs[0].finished == [{"exit_code": 1}]


def test_a_stage_that_is_trained_again_is_shown_again(tmp_path: Path, fake_wandb: Any) -> None:
    plan = recipe(tmp_path / "run", "wandb")
    train(plan, "8-step", 0, 3)
    (tmp_path / "run" / "curves" / "8-step.jsonl").unlink()  # as --again leaves it
    train(plan, "8-step", 0, 3)
    assert [step for step, values in fake_wandb.runs[1].logged if "8-step/student/loss" in values] == [1, 2, 3]


def test_wandb_without_a_login_is_one_sentence(tmp_path: Path, fake_wandb: Any) -> None:
    def refused(**settings: Any) -> None:
        raise fake_wandb.errors.Error("api_key not configured\n(no-tty)")

    fake_wandb.init = refused
    with pytest.raises(ValueError, match=r"wandb did not start \(api_key not configured \(no-tty\)\): log in with"):
        open_tracker(recipe(tmp_path / "run", "wandb"))


def test_none_is_no_tracker(tmp_path: Path) -> None:
    assert isinstance(open_tracker(recipe(tmp_path, "none")), NoTracker)


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(trackers, "import_module", missing)
    check_tracker("none")
    with pytest.raises(ValueError, match=r"logging.tracker is trackio, which is not installed: `pip install trackio`"):
        check_tracker("trackio")
