"""What a table of students is made of: an entry for each row that is to be measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewstep.student.loading import Student
from fewstep.teacher.guidance import Guidance

REFERENCE_STEPS = 50  # of the teacher that others are compared with


@dataclass(frozen=True)
class RelayEntry:
    """A row to be measured: the teacher at `steps` steps with this guidance, or a student distilled with it."""

    steps: int
    guidance: Guidance
    student: Student | None = None
    phase: str = ""
    train_seconds: float | None = None  # of all stages that the student needs, its supervisors' included
    name: str = ""  # of its stage
    run: str = ""  # the run that the stage is of
    sha256: str = ""  # of its weights: a student that was trained again is measured again
    recipe_seed: int | None = None  # of the run's recipe
    recipe_sha256: str = ""  # of all that made the student but the seed: what runs of other seeds have alike
    fresh_before: float | None = None  # held-out accuracy of heads trained afresh against real clips, before the stage
    fresh_after: float | None = None  # and after it

    @property
    def key(self) -> dict[str, Any]:
        """What tells rows apart, besides what all share."""
        settings = {"steps": self.steps, "guidance": self.guidance.plain()}
        if self.student is None:
            return {"model": "teacher", **settings}
        row = {"model": "student", **settings, "phase": self.phase, "stage": self.name, "run": self.run}
        return row | {"weights_sha256": self.sha256}

    @property
    def run_facts(self) -> dict[str, Any]:
        """What the run says of it; None where it says nothing."""
        return {
            "train_seconds": None if self.train_seconds is None else round(self.train_seconds, 1),
            "recipe_seed": self.recipe_seed,
            "recipe_sha256": self.recipe_sha256 or None,
            "fresh_before": self.fresh_before,
            "fresh_after": self.fresh_after,
        }


def label_of(row: Mapping[str, Any]) -> str:
    """What a row is called while it is measured."""
    return f"{row['steps']} steps {row.get('stage', '')}".strip()


def teacher_entries(counts: Sequence[int], guidance: Guidance, students: Sequence[RelayEntry]) -> list[RelayEntry]:
    """The teacher at these step counts, and at 50 steps with every guidance that a student was distilled with."""
    inside = list(dict.fromkeys(entry.guidance for entry in students))
    entries = [RelayEntry(count, guidance) for count in counts]
    return list(dict.fromkeys([*entries, *(RelayEntry(REFERENCE_STEPS, weight) for weight in inside)]))
