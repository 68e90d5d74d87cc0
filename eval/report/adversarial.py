"""What a report shows of an adversarial stage: what was judged, how the discriminator fared, what fresh heads see."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fewstep.eval.report.inputs import Judging, StageRecord
from fewstep.eval.report.words import plural

POINTS = 400  # of one line
_OF_TRANSITION = re.compile(r"discriminator/(accuracy|logits_real|logits_fake)_to_(.+)")
_FRESH_OF_TRANSITION = re.compile(r"fresh_heads(?:_before)?_to_(.+)")
_TURNS = "student/discriminator_steps"
_LEAST = 0.4  # where the plot of accuracy begins, unless it falls lower
_MOST_TONES = 14

CAUTION = (
    "A discriminator’s own accuracy near 0.5 is inconclusive, because it may lag behind the student. Only heads "
    "trained afresh on the finished student show whether there is still a difference."
)
_REAL = {  # what is judged -> what counts as real -> in words
    "endpoint": {
        "supervisor": "where the supervisor’s steps end",
        "clips": "clips of the data, with noise up to where a step ends",
        "clips_at_data": "clips of the data where a step ends in data, the supervisor’s endpoints elsewhere",
    },
    "clip": {
        "supervisor": "the clips that the supervisor’s steps stand for",
        "clips": "clips of the data",
        "clips_at_data": "clips of the data where a step ends in data, those of the supervisor’s steps elsewhere",
    },
    "sample": {
        "supervisor": "the supervisor’s clips from the same noise",
        "clips": "clips of the data",
        "clips_at_data": "clips of the data",
    },
}
_JUDGED = {
    "endpoint": "where each of the student’s steps ends",
    "clip": "the clip that each of the student’s steps stands for",
    "sample": "the student’s clips, from noise through all of its steps",
}

Points = list[tuple[int, float]]


def is_pictured(key: str) -> bool:
    """Whether a figure of a curve has a plot of its own."""
    return bool(_OF_TRANSITION.fullmatch(key)) or key == _TURNS


def is_of_transition(key: str) -> bool:
    """Whether a figure of a result is of a single transition, which the stage's own section shows."""
    return bool(_FRESH_OF_TRANSITION.fullmatch(key))


def adversarial_stage(pictures: list[dict[str, Any]], stage: StageRecord, tone: int) -> dict[str, Any]:
    """A stage's words and table, and the numbers of the plots that it adds."""
    judging = stage.judging
    assert judging is not None
    ends = _ends(stage.curve)

    # a plot lies once in the page's data, and sections name it by its number
    def added(picture: dict[str, Any] | None) -> int | None:
        if picture is None:
            return None
        pictures.append(picture | {"label": f"{picture['title']} of stage {stage.name}"})
        return len(pictures) - 1

    return {
        "name": stage.name,
        "facts": _facts(stage, judging),
        "fresh": fresh_heads(stage),
        "accuracy": added(_accuracy(stage, judging, ends)),
        "logits": [(label, added(_logits(stage, end, label, tone))) for end, label in ends.items()],
        "turns": added(_turns(stage, judging, tone)),
        "balance": judging.balance,
    }


def fresh_heads(stage: StageRecord) -> str:
    """What fresh heads see of the student, in a sentence."""
    judging, result = stage.judging, stage.result
    assert judging is not None
    after, before = ((result or {}).get(name) for name in ("fresh_heads", "fresh_heads_before"))
    if isinstance(after, int | float):
        was = f", {_percent(before)} before the stage" if isinstance(before, int | float) else ""
        steps = f" for {plural(judging.probe, 'step')}" if judging.probe else ""
        pairs = f"{result['fresh_heads_pairs']} " if result and "fresh_heads_pairs" in result else ""
        return (
            f"Heads trained afresh{steps} tell real and student apart in {_percent(after)} of {pairs}held-out pairs"
            f"{was}; 50 % is chance. Each figure is of one training of the heads, so a few points may be chance."
        )
    if judging.probe and result is None:
        return "Heads are trained afresh when the stage is finished; until then the difference is not known."
    return (
        "No heads were trained afresh (objective.probe is 0), so this page cannot say how well real and student can "
        "be told apart in the end."
    )


def _facts(stage: StageRecord, judging: Judging) -> list[tuple[str, str]]:
    real = _REAL.get(judging.judges, {}).get(judging.real, judging.real)
    seen = "yes (conditional)" if judging.conditional else "no (relaxed)"
    facts = [
        ("what counts as real", real),
        ("what is judged", _JUDGED.get(judging.judges, judging.judges)),
        ("the discriminator sees where a step begins", seen),
        ("discriminator steps for each of the student’s", _usual(judging)),
    ]
    result = stage.result or {}
    # of all pairs, then of each transition
    labels = _labels({match[1] for key in result if (match := _FRESH_OF_TRANSITION.fullmatch(key))})
    fresh = []
    for suffix, where in {"": "", **{f"_to_{end}": f"{label}: " for end, label in labels.items()}}.items():
        before, after = (result.get(f"{name}{suffix}") for name in ("fresh_heads_before", "fresh_heads"))
        if isinstance(after, int | float):
            shown = [_percent(accuracy) for accuracy in (before, after) if isinstance(accuracy, int | float)]
            fresh.append(where + " → ".join(shown))
    return [*facts, ("accuracy of fresh heads, before → after", "; ".join(fresh))] if fresh else facts


def _usual(judging: Judging) -> str:
    band, usual = judging.balance, judging.discriminator_steps
    if band is None:
        return str(usual)
    return f"{usual}; {max(usual, band.most)} at an accuracy under {band.low:g}, none above {band.high:g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _ends(curve: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The times at which the curve's transitions end, and how the page shows them."""
    return _labels({match[2] for point in curve for key in point if (match := _OF_TRANSITION.fullmatch(key))})


def _labels(ends: Collection[str]) -> dict[str, str]:
    """Times as figures name them, noisiest first -> how the page shows them."""
    ordered = sorted((end for end in ends if _is_number(end)), key=float, reverse=True)
    # two decimals, unless two ends would then look alike
    short = {end: f"to t = {float(end):.2f}" for end in ordered}
    if len(set(short.values())) < len(short):
        short = {end: f"to t = {end}" for end in ordered}
    return short | {end: "to data" for end in ordered if float(end) < 1e-9}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _accuracy(stage: StageRecord, judging: Judging, ends: Mapping[str, str]) -> dict[str, Any] | None:
    # a line for each transition, or, where a curve has none, one for all steps
    lines = [
        _line(label, 1 + i % _MOST_TONES, downsampled(stage.curve, f"discriminator/accuracy_to_{end}", POINTS))
        for i, (end, label) in enumerate(ends.items())
    ]
    lines = lines if ends else [_line("all steps", 1, downsampled(stage.curve, "discriminator/accuracy", POINTS))]
    lines = [line for line in lines if line["points"]]
    if not lines:
        return None
    band = judging.balance
    values = [value for line in lines for _, value in line["points"]]
    return {
        "title": "accuracy of the discriminator",
        "lines": lines,
        "range": [min(_LEAST, *values), 1.0],
        "guides": [{"name": "chance", "value": 0.5}],
        "band": band and {"low": band.low, "high": band.high, "name": f"balance {band.low:g} to {band.high:g}"},
        "smooth": not ends,  # figures of transitions are running averages already
    }


def _logits(stage: StageRecord, end: str, label: str, tone: int) -> dict[str, Any] | None:
    """Each transition has a scale of its own: only the gap counts, and where both lie is arbitrary."""
    real, fake = (
        downsampled(stage.curve, f"discriminator/logits_{side}_to_{end}", POINTS) for side in ("real", "fake")
    )
    values = [value for _, value in real + fake]
    if not real or not fake:
        return None
    return {
        "title": f"logits {label}",
        "lines": [_line("real", 0, real), _line("student", tone, fake)],
        "range": [min(values), max(values)],
        "guides": [],
        "band": None,
        "smooth": False,
        "small": True,
    }


def _turns(stage: StageRecord, judging: Judging, tone: int) -> dict[str, Any] | None:
    points = downsampled(stage.curve, _TURNS, POINTS)
    if not points:
        return None
    most = max(judging.balance.most if judging.balance else 1, *(value for _, value in points))
    return {
        "title": "discriminator steps in each step",
        "lines": [_line(stage.name, tone, points)],
        "range": [0, most],
        "guides": [],
        "band": None,
        "smooth": True,
        "small": True,
    }


def _line(name: str, tone: int, points: Points) -> dict[str, Any]:
    return {"name": name, "tone": tone, "points": points}


def downsampled(curve: Sequence[Mapping[str, Any]], key: str, most: int) -> Points:
    """The finite points of a figure, at most `most`, evenly spaced in a longer curve; the last one is among them."""
    points = [
        (point["step"], float(f"{value:.5g}"))
        for point in curve
        if isinstance(value := point.get(key), int | float) and math.isfinite(value)
    ]
    # counted from the end, so that the last point is among them
    every = math.ceil(len(points) / most) or 1
    return points[(len(points) - 1) % every :: every]
