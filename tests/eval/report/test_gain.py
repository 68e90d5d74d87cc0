"""What the adversarial part gave: who is compared with whom, and that nothing is said to differ that may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fewstep.eval.report.gain import gains
from fewstep.eval.report.inputs import Comparison, Difference, EvaluationRecord, FigureRecord, ModelRecord, RunRecord
from fewstep.eval.report.page import ReportInputs, render_page

NEARER = {"value": -3.14, "low": -5.0, "high": -1.2, "num": 512, "better": "lower", "dimensions": 280}
SURER = {"value": 0.016, "low": -0.031, "high": 0.063, "num": 512, "better": "higher", "unit": "share of clips"}


def evaluated(*stages: str, figures: dict[str, dict[str, Any]] | None = None, turned: bool = False) -> Comparison:
    """An evaluation of these stages, the last of which less the first is `figures`."""
    rows = [ModelRecord(model="teacher", role="teacher", steps=50, evaluations=100)]
    rows += [
        ModelRecord(model=f"model-{stage}", source=f"runs/game/stages/{stage}", steps=4, evaluations=4)
        for stage in stages
    ]
    pair = [f"model-{stage}" for stage in (stages[-1], stages[0])]
    model, other = reversed(pair) if turned else pair
    metrics = {name: FigureRecord(**figure) for name, figure in (figures or {}).items()}
    taken = [Difference(model=model, other=other, metrics=metrics)] if figures else []
    return Comparison(Path("evaluation"), EvaluationRecord(rows=rows, differences=taken))


def gain_of(run: RunRecord, **changes: Any) -> str:
    figures = {"shapes-fd": NEARER | changes, "prompt-accuracy": SURER}
    (gain,) = gains([run], evaluated("4-step", "4-step-relaxed", figures=figures))
    return gain.words


def test_a_difference_is_told_with_its_interval(adversarial_run: RunRecord) -> None:
    assert gain_of(adversarial_run) == (
        "What the adversarial part gave the 4-step student (model-4-step-relaxed), compared with the regression that "
        "it began with (model-4-step) on the same prompts and noise (512 clips): shapes-fd changes by −3.14 "
        "(95 %: −5.00 to "
        "−1.20), which is better; prompt-accuracy changes by +1.6 points (95 %: −3.1 to +6.3), which is not "
        "distinguishable from zero. That includes 400 steps more of training."
    )
    assert "shapes-fd changes by −3.14 (95 %: −5.00 to +1.00), which is not" in gain_of(adversarial_run, high=1.0)
    assert "which is worse" in gain_of(adversarial_run, value=3.0, low=1.0, high=5.0)


def test_the_order_of_the_models_does_not_matter(adversarial_run: RunRecord) -> None:
    turned = evaluated("4-step", "4-step-relaxed", figures={"shapes-fd": NEARER}, turned=True)
    assert (
        "shapes-fd changes by +3.14 (95 %: +1.20 to +5.00), which is worse" in gains([adversarial_run], turned)[0].words
    )


def test_what_another_objective_gave_is_told_by_its_name(adversarial_run: RunRecord) -> None:
    *before, last = adversarial_run.stages
    matched = replace(last, objective="matching", judging=None)
    sentence = gain_of(replace(adversarial_run, stages=[*before, matched]))
    assert sentence.startswith(
        "What the matching part gave the 4-step student (model-4-step-relaxed), compared with the"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"num": 64}, "(95 %: −5.00 to −1.20), which decides nothing, for 64 clips are fewer than the 280 dimensions"),
        ({"num": 3}, "shapes-fd changes by −3.14, which decides nothing, for 3 clips are fewer"),
        ({"differing": 5}, "−3.14, which decides nothing, for the two differ on 5 of 512 clips, which is too few;"),
    ],
)
def test_few_clips_decide_nothing(adversarial_run: RunRecord, changes: dict[str, Any], why: str) -> None:
    assert why in gain_of(adversarial_run, **changes)


def test_only_students_of_one_run_and_step_count_are_held_against_each_other(adversarial_run: RunRecord) -> None:
    for stages in (["4-step"], ["4-step-relaxed"], ["8-step", "4-step-relaxed"], ["elsewhere", "4-step-relaxed"]):
        assert gains([adversarial_run], evaluated(*stages)) == []
    assert gains([], evaluated("4-step", "4-step-relaxed")) == []
    (gain,) = gains([adversarial_run], evaluated("4-step", "4-step-relaxed"))
    assert "is not known" in gain.words and "adds that from the clips on disk" in gain.words


def test_the_end_of_an_adversarial_line_is_told_and_regression_beside_it(adversarial_run: RunRecord) -> None:
    eight, four, relaxed = adversarial_run.stages
    first = replace(relaxed, name="4-step-conditional", steps=30)
    alone = replace(four, name="4-step-mse", start="4-step")
    run = replace(adversarial_run, stages=[eight, four, first, replace(relaxed, start=first.name), alone])
    figures = {"shapes-fd": NEARER}
    began, beside = gains([run], evaluated("4-step", first.name, alone.name, relaxed.name, figures=figures))
    assert (began.student, began.regression, began.began_with) == ("model-4-step-relaxed", "model-4-step", True)
    assert "That includes 430 steps more of training." in began.words
    assert (beside.regression, beside.began_with) == ("model-4-step-mse", False)
    (other,) = gains([run], evaluated(alone.name, relaxed.name, figures=figures))
    assert "compared with regression alone (model-4-step-mse)" in other.words and "more of training" not in other.words


def test_it_stands_in_the_headline_in_place_of_a_sentence_on_regression(adversarial_run: RunRecord) -> None:
    comparison = evaluated("4-step", "4-step-relaxed", figures={"shapes-fd": NEARER})
    page = render_page(ReportInputs([adversarial_run], [comparison], []), count=6)
    header = page[: page.index("</header>")]
    assert "The 4-step student evaluates the network 4 times" in header and "What the adversarial part gave" in header
    assert "The student model-4-step" not in header
