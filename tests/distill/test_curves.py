"""Curves on disk: points are taken back on a resume, and a kill loses none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from accelerate import Accelerator

from fewstep.distill.curves import Curves, read_curve
from fewstep.distill.tracker import NoTracker


def test_points_after_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    for resumed_at, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        curves = Curves(tmp_path, "4-step", Accelerator(cpu=True), NoTracker(), resumed_at)
        for step in steps:
            curves.write(step, {"student/loss": 1 / step})
        curves.close()
    assert [point["step"] for point in read_curve(tmp_path / "curves" / "4-step.jsonl")] == [1, 2, 3, 4]


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
        Curves(tmp_path, "s", Accelerator(cpu=True), NoTracker(), 2)
    assert path.read_text() == before
