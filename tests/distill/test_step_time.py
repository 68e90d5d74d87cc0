"""Seconds of steps: rounds, their medians, and the ratio to the bare sum, on a clock that only ticks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.distill.step_calls import CallKind
from fewstep.distill.step_time import Round, StageTime, median_interval, steps_needed
from fewstep.teacher.base import Teacher
from tests.distill.untrained_stage import ADVERSARIAL, Ticks, one_stage, untrained


@contextmanager
def watching() -> Iterator[SimpleNamespace]:
    seen = SimpleNamespace(gib=0.0)
    yield seen
    seen.gib = 1.5


def test_the_bare_sum_is_each_call_times_its_count() -> None:
    student, head = CallKind("student", "", 4, "weights"), CallKind("discriminator", "head 0", 4, "none")
    backbone, adam = CallKind("discriminator", "backbone", 8, "none"), CallKind("adam", "student", 0, "none")
    split: Any = SimpleNamespace(seconds={("student", "student"): 3.0, ("student", "other"): 1.0})
    one = Round(
        whole=6.0,
        counts=Counter({student: 2, head: 4, backbone: 2, adam: 2}),
        each={student: 1.0, head: 0.25, backbone: 0.5, adam: 0.125},
        split=split,
        num_steps=2,
    )
    assert one.bare == {"student": 1.0, "discriminator": 1.0, "adam": 0.125}
    assert one.ratio == pytest.approx(3 / 2.125) and one.split_seconds == 2


@pytest.mark.parametrize("objective", [{"kind": "progressive"}, ADVERSARIAL])
def test_a_stage_is_measured_in_rounds(tiny_teacher: Teacher, objective: dict[str, Any]) -> None:
    trainer, rounds = untrained(tiny_teacher, one_stage(objective)), list[int]()
    measured = StageTime(trainer, Ticks())
    measured.run(3, 2, watching, lambda: rounds.append(trainer.step))
    assert len(rounds) == 5 and trainer.step - 1 == steps_needed(trainer.stage, 3, 2)
    row = measured.row()
    assert (row["stage"], row["rounds"], row["steps_per_round"]) == ("2-step", 3, trainer.stage.objective.period)
    assert row["peak_gib"] == 1.5 and len(row["ratios"]) == 3
    parts = ("supervisor", *trainer.optimizer_groups, "optimizer", "other")
    assert row["seconds"] == 1  # whole steps are timed from end to end alone
    assert sum(row[f"{part}_seconds"] for part in parts) == pytest.approx(row["split_seconds"])
    turns = row["turns"]
    assert sum(turn["seconds"] * turn["per_step"] for turn in turns.values()) == pytest.approx(row["split_seconds"])
    for turn in turns.values():
        assert turn["seconds"] == pytest.approx(sum(turn[f"{part}_seconds"] for part in parts))
    bare = sum(call["seconds"] * call["per_step"] for call in row["calls"])
    assert row["bare_seconds"] == pytest.approx(bare) == pytest.approx(sum(row["bare"].values()))
    assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert row["ratio"] == pytest.approx(row["seconds"] / bare)
    assert row["clips"] == row["expected_clips"]


def test_a_round_lasts_from_one_penalty_to_the_next() -> None:
    def steps(**objective: Any) -> int:
        return one_stage(ADVERSARIAL | objective).stages[-1].objective.period

    assert (steps(), steps(penalty_every=5), steps(r1=0), steps(r1=0, r2=0)) == (2, 5, 2, 1)
    assert one_stage().stages[-1].objective.period == 1


def test_the_interval_of_a_median() -> None:
    assert median_interval([1.0]) == (1.0, 1.0)
    low, high = median_interval([1.0, 1.1, 1.2, 1.3, 5.0])
    assert 1.0 <= low < 1.2 < high <= 5.0
    assert (low, high) == median_interval([1.0, 1.1, 1.2, 1.3, 5.0])
