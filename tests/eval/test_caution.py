"""What figures cannot say: each kind of figure that misleads, and that sound ones pass without a word."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep.eval.alarms import alarms
from fewstep.eval.caution import has_interval, is_above_ideal, on_distance, on_figures, on_times, why_inconclusive
from fewstep.eval.metrics.features import distance_figures


def figure(value: float = 1.0, num: int = 512, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "num": num} | more


def row(model: str, role: str = "student", **metrics: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "role": role, "metrics": {name.replace("_", "-"): value for name, value in metrics.items()}}


def timed(model: str, **more: Any) -> dict[str, Any]:
    sound = {"steps": 50, "evaluations": 100, "repetitions": 10, "total_seconds": 1.0, "total_seconds_p95": 1.1}
    return sound | {"model": model, "denoise_speedup": 1.0, "ideal_speedup": 1.0} | more


def test_a_distance_tells_what_it_takes_to_trust_it() -> None:
    generator = torch.Generator().manual_seed(0)
    own, real = (torch.randn(n, 6, generator=generator) for n in (5, 40))
    metrics = distance_figures("shapes-fd", own, real)
    assert metrics["shapes-fd"]["dimensions"] == 6 and metrics["shapes-fd"]["reference_num"] == 40
    assert "dimensions" not in metrics["shapes-fd-kernel"]  # unbiased at any N


@pytest.mark.parametrize(
    ("figure", "why"),
    [
        (figure(num=4), "4 clips are too few"),
        (figure(num=1), "1 clip is too few"),
        (figure(num=9), "9 clips are too few"),
        (figure(num=10), None),
        (figure(num=64, dimensions=280), "64 clips are fewer than the 280 dimensions of its features"),
        (figure(num=279, dimensions=280), "279 clips are fewer than the 280 dimensions of its features"),
        (figure(num=280, dimensions=280), None),
        (figure(num=64, differing=5), "the two differ on 5 of 64 clips, which is too few"),
        (figure(num=64, differing=6), None),
        ({"value": 1.0}, None),  # of another tool, that does not say
    ],
)
def test_figures_without_a_verdict(figure: dict[str, Any], why: str | None) -> None:
    assert why_inconclusive(figure) == why


def test_intervals_of_a_handful_of_clips_are_not_shown() -> None:
    assert not has_interval(figure(num=3)) and has_interval(figure(num=10)) and has_interval(figure() | {"num": None})
    assert not has_interval({"value": 1.0, "num": 512})
    assert not has_interval(figure(differing=5)) and has_interval(figure(differing=6))


def test_few_clips_are_told_once_for_all_models() -> None:
    rows = [
        row("teacher", "teacher", shapes_fd=figure(num=4, dimensions=280, reference_num=2048), psnr=figure(num=4)),
        row("student", shapes_fd=figure(num=4, dimensions=280, reference_num=2048), shapes_fd_kernel=figure(num=4)),
        {"model": "real", "role": "real", "metrics": {"shapes-fd": figure(num=2)}},
    ]
    first, second = on_figures(rows)
    assert first.startswith("figures of 4 clips are examples, not measurements: no interval is shown")
    assert second.startswith(
        "shapes-fd is measured on 4 clips, fewer than the 280 dimensions of its features: so few clips"
    )
    assert second.endswith("no verdict is given; shapes-fd-kernel does not depend on N")


def test_a_small_reference_is_told() -> None:
    (sentences,) = on_distance("fvd", 2048, 400, 20)
    assert sentences == (
        "fvd is measured against 20 clips, fewer than the 400 dimensions of its features: it compares models only "
        "roughly"
    )


def test_prompts_that_are_used_again_are_told() -> None:
    rows = [row("teacher", "teacher", psnr=figure(num=12))]
    assert on_figures(rows, ["a ring", "a box"] * 6) == [
        "the 12 clips show only 2 prompts, so the intervals hold for these prompts alone"
    ]
    assert on_figures(rows, [f"prompt {i}" for i in range(12)]) == []


def test_ratios_to_next_to_nothing_are_told_and_raise_no_alarm() -> None:
    still = row("teacher", "teacher", motion=figure(0.0002), saturation=figure(0.004))
    metrics = {"motion": figure(0.01), "motion-ratio": figure(50.0), "saturation": figure(0.02)}
    metrics["saturation-ratio"] = figure(5.0)
    student = {"model": "student", "role": "student", "metrics": metrics}
    assert alarms(metrics) == []  # not: moves 50 times as much, over-saturated
    assert on_figures([still, student]) == [
        "the teacher's own motion is 0.0002, almost zero, so ratios to it mean nothing",
        "the teacher's own saturation is 0.004, almost zero, so ratios to it mean nothing",
    ]
    assert alarms({"motion": figure(0.1), "motion-ratio": figure(50.0)})  # of a teacher that moves


def test_a_still_teacher_has_no_ratio_and_that_is_told() -> None:
    rows = [row("teacher", "teacher", motion=figure(0.0)), row("student", motion=figure(0.2))]
    assert "the teacher's own motion is 0, almost zero" in on_figures(rows)[0]
    assert on_figures(rows[:1]) == []  # alone it misleads nobody


def test_sound_times_pass_without_a_word() -> None:
    rows = [timed("teacher"), timed("student", evaluations=4, steps=4, denoise_speedup=24.0, ideal_speedup=25.0)]
    rows.append(timed("two", evaluations=2, steps=2, denoise_speedup=50.5, ideal_speedup=50.0))
    assert on_times(rows, {"fixed_seconds": 0.1, "seconds_per_evaluation": 0.01}) == []
    assert on_times(rows, None) == []


def test_more_than_the_ideal_is_explained() -> None:
    fast = timed("student", evaluations=7, steps=7, denoise_speedup=2.12, ideal_speedup=13 / 7)
    assert is_above_ideal(fast)
    (guided,) = on_times([timed("teacher", steps=8, evaluations=13), fast], None)
    assert guided == (
        "student: denoising 2.12 times as fast is above the ideal of 1.86, which counts evaluations alone: a guided "
        "step of the teacher, one pass of twice the batch, took longer than two passes, or the machine was busier "
        "while the teacher was timed; it is not a gain of the student"
    )
    (plain,) = on_times([timed("teacher", steps=13, evaluations=13), fast], None)
    assert "alone: the machine was busier" in plain


@pytest.mark.parametrize(
    ("repetitions", "words"), [(1, "are of one pass of each model"), (4, "are of 4 passes of each model"), (5, None)]
)
def test_few_passes_are_told(repetitions: int, words: str | None) -> None:
    sentences = on_times([timed("teacher", repetitions=repetitions)], None)
    assert sentences == [] if words is None else words in sentences[0] and len(sentences) == 1


def test_a_busy_machine_is_told() -> None:
    (sentences,) = on_times([timed("teacher"), timed("student", total_seconds_p95=2.0)], None)
    assert sentences.startswith("student: the slowest passes took 2.0 times the median, so the machine was busy")


def test_a_fit_that_says_nothing_is_told() -> None:
    rows = [timed("teacher"), timed("student", evaluations=4)]
    assert on_times(rows, {"fixed_seconds": -0.2, "seconds_per_evaluation": 0.01}) == [
        "the fixed part of the fit is below zero, which no time can be: the line does not hold for these models"
    ]
    assert on_times(rows, {"fixed_seconds": 0.2, "seconds_per_evaluation": 0.01}) == [
        "the fit is a line through only two numbers of evaluations, so nothing can contradict it"
    ]
