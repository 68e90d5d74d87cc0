"""Adversarial stages on the page: what was judged, pictures by transition, and that a level game is no end of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fewstep.eval.report.adversarial import CAUTION, POINTS, adversarial_stage, downsampled, fresh_heads
from fewstep.eval.report.inputs import Judging, RunRecord, StageRecord
from fewstep.eval.report.page import ReportInputs, render_page
from tests.eval.report.test_page import data_of


@pytest.fixture
def stage(adversarial_run: RunRecord) -> StageRecord:
    return adversarial_run.stages[2]


def shown(stage: StageRecord) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    pictures = list[dict[str, Any]]()
    return adversarial_stage(pictures, stage, 3), pictures


def test_every_transition_has_a_line_and_its_logits(stage: StageRecord) -> None:
    section, pictures = shown(stage)
    accuracy = pictures[section["accuracy"]]
    labels = ["to t = 0.97", "to t = 0.91", "to t = 0.77", "to data"]
    assert [line["name"] for line in accuracy["lines"]] == labels == [label for label, _ in section["logits"]]
    assert accuracy["guides"] == [{"name": "chance", "value": 0.5}]
    assert accuracy["band"] == {"low": 0.6, "high": 0.9, "name": "balance 0.6 to 0.9"}
    for (_, index), label in zip(section["logits"], labels, strict=True):
        assert pictures[index]["title"] == f"logits {label}"
        assert [line["name"] for line in pictures[index]["lines"]] == ["real", "student"]
    turns = pictures[section["turns"]]
    assert turns["range"] == [0, 3] and len(turns["lines"][0]["points"]) == 40
    facts = dict(section["facts"])
    assert facts["what counts as real"].startswith("clips of the data where a step ends in data, the supervisor")
    sentence = facts["discriminator steps for each of the student’s"]
    assert sentence == "1; 3 at an accuracy under 0.6, none above 0.9"


def test_transitions_that_two_digits_do_not_tell_apart_keep_three(stage: StageRecord) -> None:
    curve = [{"step": 1} | {f"discriminator/accuracy_to_{end}": 0.6 for end in ("0.998", "0.996", "0", "x", "nan")}]
    section, pictures = shown(replace(stage, curve=curve))
    assert [line["name"] for line in pictures[section["accuracy"]]["lines"]] == [
        "to t = 0.998",
        "to t = 0.996",
        "to data",
    ]
    assert [index for _, index in section["logits"]] == [None] * 3 and section["turns"] is None


def test_a_run_before_there_were_transitions_has_one_line(stage: StageRecord) -> None:
    curve = [{"step": step, "discriminator/accuracy": 0.3} for step in (1, 2)]
    section, pictures = shown(replace(stage, curve=curve, judging=Judging(), result={}))
    (only,) = pictures
    assert only["lines"][0]["points"] == [(1, 0.3), (2, 0.3)] and only["range"] == [0.3, 1.0] and only["band"] is None
    assert dict(section["facts"])["what counts as real"] == "where the supervisor’s steps end"
    assert shown(replace(stage, curve=[]))[1] == []


@pytest.mark.parametrize("count", [0, 1, POINTS - 1, POINTS, POINTS + 1, 10 * POINTS + 7])
def test_a_line_has_few_points_and_ends_with_the_curve(count: int) -> None:
    curve = [{"step": step, "figure": float(step)} for step in range(count)]
    curve += [{"step": count, "other": 1.0}, {"step": count, "figure": float("nan")}]
    points = downsampled(curve, "figure", POINTS)
    assert len(points) <= POINTS and (points[-1] == (count - 1, count - 1.0) if count else points == [])
    assert len(points) > POINTS / 2 or len(points) == count


def test_fresh_heads_are_told_with_their_limits(stage: StageRecord) -> None:
    assert fresh_heads(stage).startswith(
        "Heads trained afresh for 100 steps tell real and student apart in 78 % of held-out pairs, 84 % before the "
        "stage; 50 % is chance."
    )
    assert "until then the difference is not known" in fresh_heads(replace(stage, result=None))
    assert "No heads were trained afresh" in fresh_heads(replace(stage, judging=Judging(), result={"steps": 400}))


def test_fresh_heads_have_a_figure_for_each_transition(stage: StageRecord) -> None:
    facts = dict(shown(stage)[0]["facts"])
    assert facts["accuracy of fresh heads, before → after"] == "84 % → 78 %; to t = 0.91: 66 % → 97 %; to data: 71 %"


def test_the_page_shows_pictures_apart_from_the_other_curves(adversarial_run: RunRecord, run_record: RunRecord) -> None:
    page = render_page(ReportInputs([run_record, adversarial_run], [], []), count=6)
    data = data_of(page)
    assert len(data["pictures"]) == 6 and page.count("data-picture=") == 6
    assert page.count(CAUTION) == 1 and "84 % → 78 %" in page
    assert "fresh heads before" in page  # of the table of stages
    assert list(data["curves"][1]["stages"][2]["points"]) == ["student/loss"]
