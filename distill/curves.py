"""Curves of a stage: a line of JSON per point, for reports, and whichever tracker people look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from fewstep.teacher.atomic import naming_full_disk, whole_file


class Curves:
    """Writes `curves/<stage>.jsonl` and a tracker of accelerate's; points after `step` are taken back on a resume."""

    def __init__(self, folder: Path, stage: str, accelerator: Accelerator, tracker: str, step: int) -> None:
        self._path = folder / "curves" / f"{stage}.jsonl"
        self._main = accelerator.is_main_process
        self._tracker: GeneralTracker | None = None
        if not self._main:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_curve(self._path) if line["step"] <= step]
        self._newest = [line for line in kept if line["step"] == step]
        with whole_file(self._path) as part:
            part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        if tracker != "none":
            self._tracker = _tracker(tracker, folder, stage, step)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """One point: the figures after `step` steps. Samples that a resume makes again leave no second one."""
        point = {"step": step, **figures}
        if not self._main or point in self._newest:
            return
        with naming_full_disk(self._path), self._path.open("a") as file:
            file.write(json.dumps(point) + "\n")
        if self._tracker is not None:
            with naming_full_disk(self._path.parents[1]):
                self._tracker.log(dict(figures), step=step)

    def close(self) -> None:
        """Flushes the tracker."""
        if self._tracker is not None:
            self._tracker.finish()


def read_curve(path: Path) -> list[dict[str, Any]]:
    """The points of a curve; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return found


def check_tracker(name: str) -> None:
    """Raises ValueError when the tracker's library is missing or broken."""
    if name == "none":
        return
    try:
        import_module(name)
    except ImportError as error:
        raise ValueError(
            f"logging.tracker is {name}, which is not installed: `pip install {name}`, or use none"
        ) from error


def _tracker(name: str, folder: Path, stage: str, step: int) -> Any:
    """accelerate's tracker of this name, whose library is there: `check_tracker` was asked before the run began."""
    from accelerate import tracking

    if name == "tensorboard":  # after a resume, what was logged beyond the checkpoint is hidden
        found: Any = tracking.TensorBoardTracker(stage, str(folder / "tensorboard"), purge_step=step)
    else:
        kinds: dict[str, Any] = {"wandb": tracking.WandBTracker, "trackio": tracking.TrackioTracker}
        found = kinds[name](f"{folder.name}-{stage}")
    found.start()
    return found
