"""Figures that would mislead, and what is said of them (point 16)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fewstep.commands.demo import _on_distances
from fewstep.commands.evaluate_screen import figures_table
from fewstep.commands.tables import print_table
from fewstep.eval.alarms import alarms
from fewstep.eval.caution import on_figures
from fewstep.eval.latency.benchmark import benchmark_notes
from fewstep.eval.report.inputs import Comparison, EvaluationRecord
from fewstep.eval.report.words import verdict
from fewstep.teacher.shapes.judge import FEATURES

Check = Callable[..., None]


@pytest.fixture
def figures(check_case: Check) -> Check:
    """figures(case, got, expected)"""
    return partial(check_case, "16 figures that mislead")


def figure(value: float, num: int, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": 0.9 * value, "high": 1.1 * value, "num": num, "better": "lower"} | more


def row(
    model: str, num: int, distance: float = 100.0, motion: float = 0.02, ratio: float | None = None
) -> dict[str, Any]:
    metrics = {
        "shapes-fd": figure(distance, num, dimensions=FEATURES, reference_num=2048),
        "motion": figure(motion, num),
    }
    metrics |= {"prompt-accuracy": figure(1.0, num, better="higher")}
    if ratio is not None:
        metrics["motion-ratio"] = figure(ratio, num)
    role = "teacher" if ratio is None else "student"
    return {"model": model, "role": role, "steps": 4, "evaluations": 4, "metrics": metrics, "warnings": []}


def headline(num: int) -> str:
    evaluation = EvaluationRecord.model_validate({"rows": [row("teacher", num), row("student", num, 200.0, ratio=1.0)]})
    return " ".join(verdict(Comparison(Path("e"), evaluation)))


def test_headlines(figures: Check) -> None:
    few = headline(4)
    expected = [
        "and no verdict, for 4 clips are fewer than the 280 dimensions",
        "prompt-accuracy 1.00 against",
        "too few",
    ]
    figures("report's headline, N = 4", few.lower(), expected)
    figures("`better`, `worse` or an interval in it", bool(re.search("better|worse|–", few)), "False")
    figures(
        "report's headline, N = 64 of 280",
        headline(64),
        ["200 (180–220) against", "and no verdict, for 64 clips"],
    )
    figures("report's headline, N = 512", headline(512), ["which is worse, for the intervals do not overlap"])


def test_the_table_on_screen(figures: Check, capsys: pytest.CaptureFixture[str]) -> None:
    for num, expected in (
        (
            4,
            [
                "shapes-fd (4 clips are fewer than the 280 dimensions of its features) 100",
                "motion-ratio (4 clips are too few)",
            ],
        ),
        (
            64,
            [
                "shapes-fd (64 clips are fewer than the 280 dimensions of its features)",
                "100 ±10",
                "motion-ratio 1 ±0.1",
            ],
        ),
        (512, ["shapes-fd 100 ±10"]),
    ):
        print_table(figures_table([row("teacher", num), row("student", num, ratio=1.0)]))
        figures(f"evaluate's table, N = {num}", capsys.readouterr().out, expected)


def test_sentences_below_the_table(figures: Check) -> None:
    rows = [row("teacher", 4), row("student", 4, ratio=1.0)]
    figures("evaluate's words, N = 4", on_figures(rows), ["examples, not measurements", "no verdict is given"])
    still = [row("teacher", 512, motion=0.0001), row("student", 512, motion=0.01, ratio=100.0)]
    figures("motion 100 times that of a still teacher", on_figures(still), ["motion is 0.0001, almost zero"])
    figures("and its alarm", alarms(still[1]["metrics"]), "[]")
    figures("512 clips of 2 prompts", on_figures([row("t", 512)], ["a", "b"] * 256), ["show only 2 prompts"])
    few = [row("teacher", 512)]
    few[0]["metrics"]["shapes-fd"]["reference_num"] = 20
    figures("a distance to 20 real clips", on_figures(few), ["is measured against 20 clips, fewer than the 280"])


def timed(model: str, evaluations: int, speedup: float, ideal: float, **more: Any) -> dict[str, Any]:
    sound = {"repetitions": 10, "total_seconds": 1.0, "total_seconds_p95": 1.1, "split_gap": 0.0, "steps": 8}
    return (
        sound | {"model": model, "evaluations": evaluations, "denoise_speedup": speedup, "ideal_speedup": ideal} | more
    )


def test_notes_of_a_benchmark(figures: Check) -> None:
    teacher = timed("teacher", 13, 1.0, 1.0)

    def warnings_of(*students: dict[str, Any], fit: dict[str, float] | None = None, **more: Any) -> list[str]:
        return benchmark_notes({"rows": [teacher | more, *students], "fit": fit, "failed": {}})

    fast = timed("student", 7, 2.12, 13 / 7)
    figures("denoising 2.12x of 1.86x", warnings_of(fast), ["2.12 times as fast is above the ideal of 1.86"])
    figures("1.80x of 1.86x", warnings_of(timed("student", 7, 1.8, 13 / 7)), "[]")
    figures("speed-up of one repetition", warnings_of(repetitions=1), ["of one pass of each model"])
    figures("a pass of twice the median", warnings_of(total_seconds_p95=2.0), ["the machine was busy"])
    negative = {"fixed_seconds": -0.1, "seconds_per_evaluation": 0.1}
    figures("a fixed cost below zero", warnings_of(fast, fit=negative), ["below zero, which no time can be"])


def test_the_demos_sentence(figures: Check, tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "benchmark.json").write_text(json.dumps({"rows": [timed("student-4", 4, 20.0, 25.0)]}))
    for num, student, expected in (
        (64, 90.0, ["student 0.90 times", "a first look and no verdict: 64 clips are fewer than the 280 dimensions"]),
        (512, 190.0, ["The intervals of both at 4 steps overlap, so 512 clips cannot separate them."]),
        (
            512,
            90.0,
            ["At 4 steps the teacher is 2.00 times as far from real clips as at 50, and its student 0.90 times"],
        ),
    ):
        rows = [row("teacher-50", num, 100.0), row("teacher-4", num, 200.0), row("student-4", num, student, ratio=1.0)]
        (tmp_path / "evaluation" / "results.json").write_text(json.dumps({"rows": rows}))
        figures(f"demo's sentence, N = {num}, student {student:g}", _on_distances(tmp_path), expected)
