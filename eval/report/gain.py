"""What came after regression gave a run: its student less one of regression alone, on the same prompts and noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.eval.caution import has_interval, why_inconclusive
from fewstep.eval.report.inputs import Comparison, FigureRecord, ModelRecord, RunRecord, StageRecord
from fewstep.eval.report.words import COMPARED, COMPARED_FIRST, number, plural

_POINTS = "share of clips"  # the unit of figures that are shown in points, which are percent of the clips
_MOST = 4  # sentences


@dataclass(frozen=True)
class Gain:
    """A student of another objective, such as an adversarial one, compared with one of regression alone, in words."""

    student: str
    regression: str
    began_with: bool  # whether what came after regression began with that student
    words: str


@dataclass(frozen=True)
class _Measured:
    """A stage of a run and its row in an evaluation."""

    stage: StageRecord
    row: ModelRecord


def gains(runs: Sequence[RunRecord], comparison: Comparison) -> list[Gain]:
    """Of each student that is not of regression, and that no other one of the same step count starts from, to each of
    regression next to it."""
    sentences = []
    for run in runs:
        measured = _measured(run, comparison)
        # only the last student of a line: what came before it on the way is part of its gain
        for last in (candidate for candidate in measured if _is_last(candidate, measured, run)):
            line = [stage.name for stage in _line(run, last.stage)]
            for other in measured:
                if other.stage.regression and other.stage.student_steps == last.stage.student_steps:
                    began = other.stage.name in line
                    words = _sentence(comparison, last, other, _more_steps(run, last, other) if began else None)
                    sentences.append(Gain(last.row.model, other.row.model, began, words))
    return sentences[:_MOST]


def _measured(run: RunRecord, comparison: Comparison) -> list[_Measured]:
    """In the recipe's order."""
    rows = {_folder(row.source): row for row in comparison.evaluation.rows if row.role == "student" and row.source}
    folders = {stage.name: _folder(run.folder / "stages" / stage.name) for stage in run.stages}
    return [_Measured(stage, rows[folders[stage.name]]) for stage in run.stages if folders[stage.name] in rows]


def _folder(source: str | Path) -> Path:
    return Path(source).expanduser().resolve()


def _line(run: RunRecord, stage: StageRecord) -> Iterator[StageRecord]:
    """The stages of the same step count that a stage builds on, from itself back."""
    named = {of_run.name: of_run for of_run in run.stages}
    current: StageRecord | None = stage
    while current is not None and current.student_steps == stage.student_steps:
        yield current
        # taken out, so that starts that name one another come to an end
        named.pop(current.name)
        current = named.get(current.start or "")


def _is_last(student: _Measured, measured: Sequence[_Measured], run: RunRecord) -> bool:
    """Whether it is not of regression, and none of the others that were measured starts from it."""
    others = (other for other in measured if other is not student and not other.stage.regression)
    return not student.stage.regression and all(student.stage not in _line(run, other.stage) for other in others)


def _more_steps(run: RunRecord, last: _Measured, other: _Measured) -> int:
    """Training steps of the stages behind `other` that lead to `last`."""
    line = list(_line(run, last.stage))
    return sum(stage.steps for stage in line[: line.index(other.stage)])


def _sentence(comparison: Comparison, last: _Measured, other: _Measured, more: int | None) -> str:
    """`more`: training steps that the student has had since it was the other one; None where it never was."""
    figures = comparison.evaluation.minus(last.row.model, other.row.model)
    part = f"the {last.stage.objective.partition(',')[0]} part"
    names = [metric for metric in COMPARED_FIRST if figures and metric in figures and figures[metric].value is not None]
    if not figures or not names:
        return (
            f"What {part} gave is not known: {last.row.model} and {other.row.model} were not compared with each other. "
            "`fewstep evaluate` of both, as before, adds that from the clips on disk."
        )
    steps, num = last.stage.student_steps, figures[names[0]].num
    regression = "regression alone" if more is None else "the regression that it began with"
    clips = f" ({plural(num, 'clip')})" if num else ""
    changes = "; ".join(_change(metric, figures[metric]) for metric in names[:COMPARED])
    further = f" That includes {plural(more, 'step')} more of training." if more else ""
    return (
        f"What {part} gave the {steps}-step student ({last.row.model}), compared with {regression} "
        f"({other.row.model}) on the same prompts and noise{clips}: {changes}.{further}"
    )


def _change(metric: str, figure: FigureRecord) -> str:
    """shapes-fd changes by −3.14 (95 %: −8.00 to +1.20), which is not distinguishable from zero."""
    scale, unit = (100.0, " points") if figure.unit == _POINTS else (1.0, "")
    words = f"{metric} changes by {_signed(figure.value, scale)}{unit}"
    if has_interval(figure.model_dump()):
        words += f" (95 %: {_signed(figure.low, scale)} to {_signed(figure.high, scale)})"
    # first whether any verdict can stand, then what the interval says
    why = why_inconclusive(figure.model_dump())
    if why:
        return f"{words}, which decides nothing, for {why}"
    if figure.low is None or figure.high is None:
        return words
    if figure.low <= 0 <= figure.high:
        return f"{words}, which is not distinguishable from zero"
    if figure.better is None:
        return f"{words}, which is distinguishable from zero"
    return f"{words}, which is {'better' if (figure.low > 0) == (figure.better == 'higher') else 'worse'}"


def _signed(value: float | None, scale: float) -> str:
    if value is None:
        return number(None)
    text = f"{scale * value:.1f}".replace("-", "−") if scale != 1 else number(float(value))
    return text if value < 0 else f"+{text}"
