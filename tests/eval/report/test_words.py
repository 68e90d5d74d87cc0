"""The sentences: what is compared, what is flagged, and that no figure is said to differ when intervals overlap."""

from __future__ import annotations

import math
from dataclasses import replace

from fewstep.eval.report.inputs import BenchmarkRecord, Comparison, FigureRecord, RunRecord
from fewstep.eval.report.page import ReportInputs
from fewstep.eval.report.words import duration, interval, number, title, verdict, warnings


def test_figures_are_rounded_as_people_write_them() -> None:
    assert [number(x) for x in (37.179, 0.93, 5.2, 121.0, 12345.6, 512, None)] == [
        "37.2", "0.930", "5.20", "121", "12,346", "512", "–",
    ]  # fmt: skip
    assert (duration(0.037), duration(61.28), duration(None)) == ("37.0 ms", "61.3 s", "–")
    assert interval(FigureRecord(value=38.2, low=33, high=44.06)) == "38.2 (33.0–44.1)"
    assert interval(FigureRecord(value=math.nan)) == "–"


def test_the_verdict_compares_every_student_with_its_teacher(material: ReportInputs) -> None:
    four, one = verdict(material.comparisons[0])
    assert four.startswith("The 4-step student is 24.5× faster at denoising (ideal 25×) and 16.4× from prompt to clip;")
    assert "shapes-fd 38.2 (32.5–45.1) against the teacher’s 37.2 (31.6–43.9), and the intervals overlap" in four
    assert four.endswith("Without distillation, the teacher at 4 steps has shapes-fd 82.8 (70.4–97.7).")
    assert "Prompt-accuracy 0.410" in one and one.endswith("which is worse, for the intervals do not overlap.")
    untimed = replace(material.comparisons[0], benchmark=None)
    assert "evaluates the network 1 time for a clip, the teacher 100 times" in verdict(untimed)[1]
    assert title(material.runs, material.comparisons) == "shapes, from 50 steps to 4 and 1"


def test_failures_come_first(material: ReportInputs, run_record: RunRecord, benchmark: BenchmarkRecord) -> None:
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


def retold(material: ReportInputs, **changes: object) -> Comparison:
    """The same comparison with other `num`, `dimensions` ... of every figure."""
    evaluation = material.comparisons[0].evaluation
    rows = [
        row.model_copy(update={"metrics": {n: f.model_copy(update=changes) for n, f in row.metrics.items()}})
        for row in evaluation.rows
    ]
    return replace(material.comparisons[0], evaluation=evaluation.model_copy(update={"rows": rows}))


def test_a_handful_of_clips_gets_no_verdict(material: ReportInputs) -> None:
    few = retold(material, num=4)
    for sentence in verdict(few):
        assert "better" not in sentence and "worse" not in sentence and "overlap" not in sentence
    assert "shapes-fd 38.2 against the teacher’s 37.2, and no verdict, for 4 clips are too few" in verdict(few)[0]
    assert interval(FigureRecord(value=38.2, low=33, high=44.06, num=9)) == "38.2"
    facts = "figures of 4 clips are examples, not measurements"
    assert any(words.startswith(facts) for words in warnings([], [], [few]))


def test_a_distance_of_fewer_clips_than_dimensions_gets_no_verdict(material: ReportInputs) -> None:
    few = retold(material, num=64, dimensions=280)
    one = verdict(few)[1]
    assert "no verdict, for 64 clips are fewer than the 280 dimensions of its features" in one and "worse" not in one
    facts = "shapes-fd is measured on 64 clips, fewer than the 280 dimensions of its features"
    assert any(words.startswith(facts) for words in warnings([], [], [few]))
    assert "and no verdict" not in verdict(retold(material, num=512, dimensions=280))[1]


def test_more_than_the_ideal_is_not_the_students(material: ReportInputs, benchmark: BenchmarkRecord) -> None:
    quick = {"denoise_seconds": 0.6005 / 40, "denoise_speedup": 40.0}
    rows = [row.model_copy(update=quick) if row.model == "4-step" else row for row in benchmark.rows]
    fast = benchmark.model_copy(update={"rows": rows})
    four = verdict(replace(material.comparisons[0], benchmark=fast))[0]
    assert "is 40× faster at denoising (ideal 25×, so not all of it is due to the student)" in four
    facts = "4-step: denoising 40 times as fast is above the ideal"
    assert any(words.startswith(facts) for words in warnings([], [fast], []))
