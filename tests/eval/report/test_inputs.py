"""Which times a report gives a model, and that they are of a clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.eval.report.inputs import EvaluationRecord, ModelRecord, read_benchmark


def times(path: Path, batch: int, *rows: dict[str, Any]) -> Path:
    fit = {"fixed_seconds": 2.0, "seconds_per_evaluation": 1.0}
    tried = [{"option": "tiling", "kept": True, "seconds_without": 8.0, "seconds_with": 4.0}]
    content = {"protocol": {"batch": batch}, "rows": rows, "fit": fit, "optimised": tried}
    path.write_text(json.dumps(content))
    return path


def test_seconds_of_a_batch_become_those_of_a_clip(tmp_path: Path) -> None:
    row = {"model": "a", "steps": 4, "total_seconds": 8.0, "total_seconds_p95": 10.0, "speedup": 3.0, "peak_gib": 4.0}
    for batch in (1, 4):
        benchmark = read_benchmark(times(tmp_path / "benchmark.json", batch, row))
        (timed,), fit, (tried,) = benchmark.rows, benchmark.fit, benchmark.optimised
        assert (timed.total_seconds, timed.total_seconds_p95) == (8 / batch, 10 / batch)
        assert (timed.speedup, timed.peak_gib, tried.speedup) == (3, 4, 2)
        assert fit is not None and (fit.fixed_seconds, fit.seconds_per_evaluation) == (2 / batch, 1 / batch)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ({"model": "small", "decoder": "runs/decoder"}, 1.0),
        ({"model": "own"}, 2.0),  # not that of the small decoder, though steps and source are the same
        ({"model": "small", "decoder": "runs/decoder", "guidance": 5.0}, None),
        ({"model": "small", "decoder": "runs/decoder", "steps": 2}, None),
        ({"model": "timed", "source": "elsewhere"}, 2.0),  # by its name
    ],
)
def test_a_model_gets_the_times_of_one_that_is_asked_alike(
    tmp_path: Path, model: dict[str, Any], found: float | None
) -> None:
    of_run = {"source": "runs/a", "steps": 4, "guidance": 1.0}
    rows = (
        {"model": "run-4", **of_run, "decoder": "runs/decoder", "total_seconds": 1.0},
        {"model": "timed", **of_run, "total_seconds": 2.0},
    )
    timed = read_benchmark(times(tmp_path / "benchmark.json", 1, *rows)).of(ModelRecord.model_validate(of_run | model))
    assert (None if timed is None else timed.total_seconds) == found


def test_times_of_another_size_or_of_another_run_with_the_same_names_are_not_taken(tmp_path: Path) -> None:
    row = {"model": "student", "source": "runs/b/stages/4-step", "steps": 4, "total_seconds": 2.0}
    benchmark = read_benchmark(times(tmp_path / "benchmark.json", 1, row))
    student = ModelRecord.model_validate({"model": "student", "role": "student", "source": "runs/a", "steps": 4})
    assert not benchmark.has_timed(student) and benchmark.has_timed(student.model_copy(update={"source": "runs/b"}))
    sides = {"frames": 17, "height": 64, "width": 64}
    evaluation = EvaluationRecord.model_construct(protocol=sides, rows=[student])
    assert benchmark.is_of_size(evaluation)  # it does not say
    benchmark.protocol["size"] = [17, 64, 64]
    assert benchmark.is_of_size(evaluation)
    benchmark.protocol["size"] = [81, 480, 832]
    assert not benchmark.is_of_size(evaluation)
