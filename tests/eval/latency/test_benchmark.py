"""Amdahl's law read back from timings that follow it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fewstep.eval.latency.benchmark import amdahl_fit, check_replaceable, speedups

FIXED, PER_EVALUATION = 1.5, 1.01  # rCM's table for Wan 1.3B: method.md, section 5


def row(evaluations: int, noise: float = 0.0) -> dict[str, float]:
    denoise = PER_EVALUATION * evaluations
    return {"evaluations": evaluations, "denoise_seconds": denoise, "total_seconds": FIXED + denoise + noise}


def test_the_published_speedups_follow_from_the_fit() -> None:
    teacher = row(100)
    ratios = [round(speedups(row(n), teacher)["speedup"], 1) for n in (4, 2, 1)]
    assert ratios == pytest.approx([20.3, 31.9, 44.9], rel=0.15)  # measured there
    assert [speedups(row(n), teacher)["ideal_speedup"] for n in (4, 2, 1)] == [25, 50, 100]
    assert [speedups(row(n), teacher)["denoise_speedup"] for n in (4, 2, 1)] == pytest.approx([25, 50, 100])


def test_the_fit_finds_both_costs() -> None:
    fit = amdahl_fit([row(n) for n in (100, 8, 4, 2, 1)])
    assert fit == pytest.approx({"fixed_seconds": FIXED, "seconds_per_evaluation": PER_EVALUATION})


def test_the_fit_is_least_squares() -> None:
    noise = np.random.default_rng(0).normal(0, 0.3, 40)
    rows = [row(n % 7 + 1, e) for n, e in enumerate(noise)]
    per, fixed = np.polyfit([r["evaluations"] for r in rows], [r["total_seconds"] for r in rows], 1)
    assert amdahl_fit(rows) == pytest.approx({"fixed_seconds": fixed, "seconds_per_evaluation": per})


@pytest.mark.parametrize("rows", [[], [row(4)], [row(4), row(4, 0.1)]])
def test_one_number_of_evaluations_says_nothing(rows: list[dict[str, float]]) -> None:
    assert amdahl_fit(rows) is None


def test_a_text_of_the_users_own_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ValueError, match=r"README\.md would be replaced, and is no benchmark's"):
        check_replaceable(tmp_path / "README.json")
    (tmp_path / "README.json").write_text('{"fit": null}')  # of a benchmark, whose table it is
    check_replaceable(tmp_path / "README.json")
