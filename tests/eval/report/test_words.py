"""The sentences: what is compared, what is flagged, and that no figure is said to differ when intervals overlap."""

from __future__ import annotations

import math
from dataclasses import replace

from fewstep.eval.report.inputs import Benchmark, Figure, RunRecord
from fewstep.eval.report.page import Material
from fewstep.eval.report.words import duration, interval, number, title, verdict, warnings


def test_figures_are_rounded_as_people_write_them() -> None:
    assert [number(x) for x in (37.179, 0.93, 5.2, 121.0, 12345.6, 512, None)] == [
        "37.2", "0.930", "5.20", "121", "12,346", "512", "–",
    ]  # fmt: skip
    assert (duration(0.037), duration(61.28), duration(None)) == ("37.0 ms", "61.3 s", "–")
    assert interval(Figure(value=38.2, low=33, high=44.06)) == "38.2 (33.0–44.1)"
    assert interval(Figure(value=math.nan)) == "–"


def test_the_verdict_compares_every_student_with_its_teacher(material: Material) -> None:
    four, one = verdict(material.comparisons[0])
    assert four.startswith("The 4-step student is 24.5× faster at denoising (ideal 25×) and 16.4× from prompt to clip;")
    assert "shapes-fd 38.2 (32.5–45.1) against the teacher’s 37.2 (31.6–43.9), and the intervals overlap" in four
    assert four.endswith("Undistilled, the teacher at 4 steps has shapes-fd 82.8 (70.4–97.7).")
    assert "Prompt-accuracy 0.410" in one and one.endswith("which is worse, for the intervals do not overlap.")
    untimed = replace(material.comparisons[0], benchmark=None)
    assert "asks the network 1 time for a clip, where the teacher asks 100 times" in verdict(untimed)[1]
    assert title(material.runs, material.comparisons) == "shapes, from 50 steps to 4 and 1"


def test_failures_come_first(material: Material, run_record: RunRecord, benchmark: Benchmark) -> None:
    broken = replace(run_record.stages[0], gate="the gate did not open", curve=[{"step": 7, "student/loss": math.nan}])
    waiting = replace(run_record.stages[2], name="later", curve=[])
    run = replace(run_record, stages=[broken, run_record.stages[2], waiting])
    timed = benchmark.model_copy(update={"failed": {"2-step": "out of memory"}})
    assert warnings([run], [timed], material.comparisons) == [
        "relay: the gate did not open",
        "relay: student/loss of stage 8-step was not a finite number at step 7",
        "relay: stage 1-step has done 121 of 240 steps",
        "relay: not begun: later",
        "2-step was not timed: out of memory",
        "1-step: moves only 31 % as much as the teacher: it may have become static",
    ]
