"""Rows of a table of students compared with the 50-step teacher, and against regression alone, prompt by prompt.

A student's delta is its shapes-fd less that of the `mse` row with the same step count and baked-in guidance: of the
same run if that has one, else of any; of several, the one whose training took about as long. `mse` rows have no delta.
All intervals are of 95 %, by a paired bootstrap over prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

from torch import Tensor

from fewstep.eval.metrics import paired
from fewstep.eval.metrics.clips import ratio_interval
from fewstep.eval.metrics.frechet import Interval
from fewstep.eval.results import TableRow
from fewstep.eval.shapes.relay_clips import Judged
from fewstep.eval.shapes.relay_entry import REFERENCE_STEPS

BASELINE = "mse"  # the phase that others are compared with


def _names(figure: str) -> tuple[str, str, str]:
    return figure, f"{figure}_low", f"{figure}_high"


OF_DELTA = (*_names("delta"), *_names("accuracy_delta"), "delta_to", "delta_to_sha256")
OF_TEACHER = (*_names("ratio"), *_names("motion_to_teacher"), *_names("diversity"))


def baseline_of(row: TableRow, rows: Sequence[TableRow]) -> TableRow | None:
    """The `mse` row that a student's row is compared with; None for those rows themselves, and where there is none."""
    if row["model"] != "student" or row["phase"] == BASELINE:
        return None
    # regression alone, at the same step count and guidance
    alike = [
        other
        for other in rows
        if other["model"] == "student"
        and other["phase"] == BASELINE
        and (other["steps"], other["guidance"]) == (row["steps"], row["guidance"])
    ]
    own = [other for other in alike if other["run"] == row["run"]]
    seconds = row.get("train_seconds", 0.0)
    # at about equal seconds: more regression gains, too
    return min(own or alike, key=lambda other: abs(other.get("train_seconds", inf) - seconds), default=None)


def teacher_row_of(row: TableRow, rows: Sequence[TableRow]) -> TableRow | None:
    """The row of the 50-step teacher with the same guidance; None for that row itself, and where there is none."""
    wanted = {"model": "teacher", "steps": REFERENCE_STEPS, "guidance": row.get("guidance")}
    if row["model"] not in ("teacher", "student") or wanted.items() <= row.items():
        return None
    return next((other for other in rows if wanted.items() <= other.items()), None)


def minus_baseline(row: TableRow, own: Judged, baseline: TableRow, other: Judged) -> dict[str, Any]:
    """delta (of shapes-fd) and accuracy_delta (in points, which are percent of the clips), and of what."""
    figures = interval_figures("delta", paired.difference(own.distance, other.distance).interval, 3)
    figures |= interval_figures("accuracy_delta", paired.difference(own.accuracy, other.accuracy).interval, 2)
    named = baseline["stage"] if baseline["run"] == row["run"] else f"{baseline['run']}: {baseline['stage']}"
    return figures | {"delta_to": named, "delta_to_sha256": baseline["weights_sha256"]}


def over_teacher(own: Judged, teacher: Judged) -> dict[str, Any]:
    """ratio (of shapes-fd), motion_to_teacher and diversity: multiples of what the teacher has.

    A multiple of nothing is left out: of the motion of a teacher that stands still, say.
    """
    figures: dict[str, Any] = dict.fromkeys(OF_TEACHER)
    if teacher.distance.value > 0:
        figures |= interval_figures("ratio", paired.ratio(own.distance, teacher.distance).interval, 4)
    figures |= multiple("motion_to_teacher", own.motion, teacher.motion)
    return figures | multiple("diversity", own.apart, teacher.apart)


def multiple(figure: str, own: Tensor, other: Tensor) -> dict[str, Any]:
    """Sum of own (N,) over sum of other (N,), pair by pair; nothing where the other is 0."""
    return interval_figures(figure, ratio_interval(own, other), 4) if other.sum() > 0 else {}


def interval_figures(figure: str, interval: Interval, digits: int) -> dict[str, Any]:
    """A figure and its interval, as a row has them."""
    values = (interval.value, interval.low, interval.high)
    return {name: round(value, digits) for name, value in zip(_names(figure), values, strict=True)}
