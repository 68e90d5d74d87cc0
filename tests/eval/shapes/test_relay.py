"""The order in which a table of students is read."""

from __future__ import annotations

from fewstep.eval.shapes.relay import _place


def test_phases_follow_one_another_and_the_last_of_a_line_is_last() -> None:
    """Whatever an objective calls what it does."""
    phases = ["final", "matched", "relaxed", "mse", "conditional", "start"]
    rows = [{"model": "student", "steps": 4, "phase": phase} for phase in phases]
    rows += [{"model": "real"}, {"model": "student", "steps": 8, "phase": "final"}, {"model": "teacher", "steps": 50}]
    order = [(row["model"], row.get("phase")) for row in sorted(rows, key=_place)]
    students = ["final", "start", "mse", "conditional", "relaxed", "matched", "final"]
    assert order == [("real", None), ("teacher", None), *(("student", phase) for phase in students)]
