"""A chain's table: figures of an evaluation next to seconds of a benchmark, of the same models only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.eval.shapes.chain import chain_rows


def link(source: str, steps: int) -> dict[str, Any]:
    return {"source": source, "steps": steps, "guidance": 1.0}


def write(folder: Path, timed_evaluations: int = 8) -> tuple[Path, Path]:
    figure = {"value": 50.0, "low": 45.0, "high": 55.0, "num": 512}
    students = [link("runs/a/picture/stages/4-step", 4), link("runs/b/stages/4-step-relaxed", 4)]
    rows = [
        {"model": "real", "role": "real", "evaluations": None, "metrics": {"shapes-fd": figure}},
        {
            "model": "teacher", "role": "teacher", "evaluations": 64, "metrics": {"shapes-fd": figure},
            "chain": [link("shapes-frame", 16), link("shapes-image", 16)],
        },
        {
            "model": "four", "role": "student", "evaluations": 8, "chain": students,
            "metrics": {"shapes-fd": figure, "prompt-accuracy": figure | {"value": 0.9}},
        },
    ]  # fmt: skip
    times = [
        {"model": "four", "evaluations": timed_evaluations, "total_seconds": 0.4},
        {"model": "teacher", "evaluations": 64, "total_seconds": 2.0},
    ]
    evaluation, benchmark = folder / "results.json", folder / "benchmark.json"
    evaluation.write_text(json.dumps({"protocol": {}, "rows": rows}))
    benchmark.write_text(json.dumps({"protocol": {"batch": 4}, "rows": times}))
    return evaluation, benchmark


def test_seconds_are_of_a_clip_and_beside_the_figures_of_the_same_model(tmp_path: Path) -> None:
    real, teacher, four = chain_rows(*write(tmp_path))
    assert (real["stage"], real["steps"], "seconds" in real) == ("", "", False)
    assert (teacher["stage"], teacher["steps"], teacher["seconds"]) == ("undistilled", "16+16", 0.5)
    assert (four["stage"], four["steps"], four["seconds"]) == ("4-step+4-step-relaxed", "4+4", 0.1)
    assert (four["shapes_fd"], four["shapes_fd_low"], four["prompt_accuracy"], four["num"]) == (50, 45, 0.9, 512)


def test_models_that_were_asked_otherwise_are_left_out_and_other_files_refused(tmp_path: Path) -> None:
    evaluation, benchmark = write(tmp_path, timed_evaluations=4)
    assert [row["model"] for row in chain_rows(evaluation, benchmark)] == ["real", "teacher"]
    with pytest.raises(ValueError, match="is not a file of `fewstep evaluate`"):
        chain_rows(evaluation, tmp_path / "none.json")
    benchmark.write_text(json.dumps({"protocol": {"batch": 1}, "rows": []}))
    with pytest.raises(ValueError, match="no model in common"):
        chain_rows(evaluation, benchmark)
