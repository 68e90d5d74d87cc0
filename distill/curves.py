"""Curves of a stage: a line of JSON per point, for reports, and whichever tracker people look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from fewstep.distill.tracker import Tracker
from fewstep.teacher.files.atomic import disk_full_as_oserror, whole_file
from fewstep.teacher.files.json_text import parse_json


class Curves:
    """Writes `curves/<stage>.jsonl` and to a tracker; points after `step` are taken back on a resume."""

    def __init__(self, folder: Path, stage: str, accelerator: Accelerator, tracker: Tracker, step: int) -> None:
        self._path, self._stage = folder / "curves" / f"{stage}.jsonl", stage
        self._main, self._tracker = accelerator.is_main_process, tracker
        if not self._main:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # points after the checkpoint's step go: training makes them once more
        before = read_curve(self._path)
        self._newest = [line for line in before if line["step"] == step]
        with whole_file(self._path) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in before if line["step"] <= step))
        tracker.begin(stage, step, max((line["step"] for line in before), default=0))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """One point: the figures after `step` steps. Samples that a resume makes again leave no second one."""
        point = {"step": step, **figures}
        if not self._main or point in self._newest:
            return
        with disk_full_as_oserror(self._path), self._path.open("a") as file:
            file.write(json.dumps(point) + "\n")
        with disk_full_as_oserror(self._path.parents[1]):
            self._tracker.figures(self._stage, step, figures)

    def close(self) -> None:
        """What was written is on its way to the tracker."""
        if self._main:
            self._tracker.flush()


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The points of a curve; from a line on that is none, such as the last one of a kill, all are left out."""
    if not path.exists():
        return []
    points = []
    for line in path.read_text().splitlines():
        try:
            point = parse_json(line)
        except ValueError:
            break
        if not _is_point(point):
            break
        points.append(point)
    return points


def _is_point(point: Any) -> bool:
    """Whether it is figures at a step."""
    return (
        isinstance(point, dict)
        and type(step := point.get("step")) is int
        and 0 <= step < 2**53
        and all(type(figure) in (int, float) for figure in point.values())
    )
