"""Trackers: where people look at a run's curves, sample clips and settings. A run is one run there, too."""

from __future__ import annotations

import json
import secrets
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

from fewstep.distill.recipe import Recipe
from fewstep.distill.tracker import NoTracker, Tracker
from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.files.json_text import parse_json

ID = "tracker.json"  # in the run directory: under which id and name a tracker knows it


class _Online(NoTracker, ABC):
    """What wandb and trackio share: one run for all stages, whose names lead those of their figures.

    The step is that of the relay: stages are counted on from the ones before. What came before a stop is not sent
    again, for neither takes points back; what is trained again after it is the same anyway, but for rounding.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._prompts = recipe.logging.sampled
        self._before: dict[str, int] = {}
        total = 0
        for stage in recipe.stages:
            self._before[stage.name] = total
            total += stage.steps
        self._seen = 0
        self._clips_seen = 0

    def begin(self, stage: str, step: int, seen: int) -> None:
        self._seen = self._clips_seen = max(seen, step)

    def figures(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        if step > self._seen:
            self._send({f"{stage}/{name}": value for name, value in figures.items()}, self._before[stage] + step)

    def clips(self, stage: str, step: int, folder: Path) -> None:
        if step > self._clips_seen:  # the last step's may be made twice
            self._clips_seen = step
            videos = [self._video(folder / f"{i}.mp4", prompt) for i, prompt in enumerate(self._prompts)]
            self._send({f"{stage}/samples/{i}": video for i, video in enumerate(videos)}, self._before[stage] + step)

    @abstractmethod
    def _send(self, values: Mapping[str, Any], step: int) -> None:
        """Logs values at a step of the relay."""

    @abstractmethod
    def _video(self, path: Path, prompt: str) -> Any:
        """A clip as this tracker takes it."""


class Wandb(_Online):
    """Weights & Biases; `WANDB_MODE=offline` keeps all in RUN/wandb for `wandb sync`."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        import wandb

        self._wandb, known = wandb, _identity(recipe.out)
        try:
            self._run = wandb.init(
                project=recipe.logging.project,
                name=known["name"],
                id=known["id"],
                resume="allow",
                dir=str(recipe.out),
                config=recipe.model_dump(mode="json"),
                allow_val_change=True,
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"wandb did not start ({' '.join(str(error).split())}): log in with `wandb login`, set "
                "WANDB_MODE=offline, or take another logging.tracker"
            ) from error
        # its own step never goes back, and a stage that is trained again does
        self._run.define_metric("relay_step", hidden=True)
        self._run.define_metric("*", step_metric="relay_step")

    def _send(self, values: Mapping[str, Any], step: int) -> None:
        self._run.log({**values, "relay_step": step}, step=max(step, self._run.step))

    def _video(self, path: Path, prompt: str) -> Any:
        return self._wandb.Video(str(path), caption=prompt, format="mp4")

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._run.finish(exit_code=0 if kind is None else 1)


class Trackio(_Online):
    """trackio, on this machine unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL names another place."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        import trackio

        try:
            others = {run.name for run in trackio.Api().runs(recipe.logging.project)}
        except ValueError:  # the project is new
            others = set()
        self._trackio, known = trackio, _identity(recipe.out, others)
        self._run = trackio.init(
            project=recipe.logging.project,
            name=known["name"],
            resume="allow",
            config=recipe.model_dump(mode="json"),
            embed=False,
        )

    def _send(self, values: Mapping[str, Any], step: int) -> None:
        self._run.log(dict(values), step=step)

    def _video(self, path: Path, prompt: str) -> Any:
        return self._trackio.Video(str(path), caption=prompt)

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._run.finish()


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


def open_tracker(recipe: Recipe) -> Tracker:
    """The tracker that a recipe names, for the main process alone. Raises ValueError when it cannot start."""
    name = recipe.logging.tracker
    if name == "none":
        return NoTracker()
    if name == "tensorboard":
        from fewstep.distill.tensorboard import TensorBoard

        return TensorBoard(recipe)
    return Wandb(recipe) if name == "wandb" else Trackio(recipe)


def _identity(folder: Path, others: Collection[str] = ()) -> dict[str, str]:
    """Name and id of the run in this folder, the same after a stop; another run's name gets the id behind it."""
    path = folder / ID
    if path.exists():
        kept: dict[str, str] = parse_json(path.read_text("utf-8"))
        return kept
    name, own = folder.resolve().name, secrets.token_hex(4)
    known = {"name": f"{name}-{own}" if name in others else name, "id": own}
    with whole_file(path) as part:
        part.write_text(json.dumps(known) + "\n", "utf-8")
    return known
