"""Curves where people look at them, and trackers that are not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fewstep.distill import curves
from fewstep.distill.curves import Curves, check_tracker, read_curve


def test_tensorboard_shows_what_the_file_says(tmp_path: Path) -> None:
    written = Curves(tmp_path, "4-step", Accelerator(cpu=True), "tensorboard", 0)
    for step in (1, 2):
        written.write(step, {"student/loss": 0.5 / step})
    written.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "4-step"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("student/loss")] == [(1, 0.5), (2, 0.25)]
    assert read_curve(tmp_path / "curves" / "4-step.jsonl") == [
        {"step": 1, "student/loss": 0.5},
        {"step": 2, "student/loss": 0.25},
    ]


def test_a_curve_outlives_a_kill_while_points_are_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curves" / "s.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)))
    before, write = path.read_text(), Path.write_text

    def killed(self: Path, text: str) -> None:
        write(self, text[:5])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        Curves(tmp_path, "s", Accelerator(cpu=True), "none", 2)
    assert path.read_text() == before


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(curves, "import_module", missing)
    check_tracker("none")
    with pytest.raises(ValueError, match=r"logging.tracker is trackio, which is not installed: `pip install trackio`"):
        check_tracker("trackio")
