"""Evaluations of what is given, as one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.eval.results import read_results
from tests.commands.typed import fewstep


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 1, "high": value + 1}


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """results.json of a teacher, real clips and a student."""

    def row(model: str, role: str, steps: int | None, **metrics: float) -> dict[str, Any]:
        shown = {name.replace("_", "-"): figure(value) for name, value in metrics.items()}
        return {"model": model, "role": role, "steps": steps, "guidance": 3.0, "metrics": shown}

    rows = [
        row("teacher", "teacher", 50, shapes_fd=50.0, frame_psnr=21.0, motion=0.1),
        row("real", "real", None, shapes_fd=3.0),
        row("four", "student", 4, shapes_fd=52.0, frame_psnr=20.5, motion=0.098, motion_ratio=0.98),
    ]
    deltas = {"shapes-fd": figure(2.0), "frame-psnr": figure(-0.5)}
    differences = [{"model": "four", "other": "teacher", "metrics": deltas}]
    protocol = {"num": 8, "seed": 3, "dtype": "float32", "metrics": {}}
    (tmp_path / "evaluation").mkdir()
    facts = {"protocol": protocol, "rows": rows, "differences": differences}
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(facts))
    return tmp_path / "evaluation"


def test_a_row_per_teacher_and_student_with_paired_differences(evaluation: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.json"
    code, output = fewstep("shapes", "conditioning", f"image-to-video={evaluation}", "--out", out)
    assert code == 0, output
    command, (teacher, student) = read_results(out)
    assert command == f"fewstep shapes conditioning image-to-video={evaluation} --out {out}"
    assert (teacher["kind"], teacher["role"], teacher["steps"]) == ("image-to-video", "teacher", 50)
    assert (teacher["shapes_fd"], teacher["low"], teacher["high"]) == (50.0, 49.0, 51.0)
    assert "shapes_fd_delta" not in teacher and "box_iou" not in teacher
    assert (student["shapes_fd_ratio"], student["motion_ratio"]) == (1.04, 0.98)
    assert (student["frame_psnr_delta"], student["frame_psnr_delta_low"]) == (-0.5, -1.5)
    assert (student["num"], student["seed"], student["dtype"]) == (8, 3, "float32")
    assert "image-to-video" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["evaluation"], "evaluation must be KIND=FOLDER"),
        (["=evaluation"], "must be KIND=FOLDER"),
        (["a={}", "a={}"], "a is given twice"),
        (["a=nowhere"], "nowhere has no results.json: pass a folder that `fewstep evaluate` wrote"),
    ],
)
def test_what_is_no_evaluation_is_refused(evaluation: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    code, output = fewstep(
        "shapes", "conditioning", *(word.format(evaluation) for word in words), "--out", tmp_path / "table.json"
    )
    assert code == 2 and sentence in output
    assert not (tmp_path / "table.json").exists()
