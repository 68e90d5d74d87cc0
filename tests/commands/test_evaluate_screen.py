"""Which figures of an evaluation its table shows."""

from __future__ import annotations

from typing import Any

from fewstep.commands.evaluate_screen import figures_table
from fewstep.eval.alarms import alarms


def test_figures_of_a_new_metric_are_shown_after_those_that_are_known() -> None:
    names = ("sharpness", "sharpness-ratio", "motion", "motion-ratio", "blank", "shapes-fd", "shapes-fd-kernel", "new")
    metrics: dict[str, Any] = {name: {"value": 1.0, "low": 0.9, "high": 1.1, "num": 64} for name in names}
    table = figures_table([{"model": "student", "evaluations": 4, "metrics": metrics}])
    assert list(table.columns[0].cells) == ["evaluations", "shapes-fd", "motion-ratio", "sharpness-ratio", "new"]


def test_a_row_that_lost_figures_is_shown_without_them() -> None:
    rows: list[dict[str, Any]] = [{"model": "student", "metrics": {"motion-ratio": {"value": None}}}]
    assert alarms(rows[0]["metrics"]) == []
    assert [list(column.cells) for column in figures_table(rows).columns] == [["evaluations", "motion-ratio"], ["", ""]]
