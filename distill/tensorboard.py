"""TensorBoard's files: curves, clips that move, settings for the HPARAMS page and the recipe as text."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import av
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from fewstep.distill.recipe import Recipe
from fewstep.distill.tracker import NoTracker

_SIDE = 256  # pixels of a clip's longer side, at most: GIFs grow fast, and the mp4 files are whole
_SHOWN = ("student/loss", "endpoint_error", "motion", "contrast")  # figures besides the settings


class TensorBoard(NoTracker):
    """RUN/tensorboard, a folder per stage. What was logged beyond the checkpoint is hidden after a resume."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._folder = recipe, recipe.out / "tensorboard"
        self._writer: Any = None  # a SummaryWriter; mypy takes its file_writer for None

    def begin(self, stage: str, step: int, seen: int) -> None:
        self._close()
        writer: Any = SummaryWriter(str(self._folder / stage), purge_step=step + 1)  # the point at `step` stays
        self._writer, self._clips_seen = writer, step
        # the HPARAMS page compares stages: what the run shares, and the stage's own settings
        settings = next(candidate for candidate in self._recipe.stages if candidate.name == stage).model_dump(
            mode="json"
        )
        shared = self._recipe.model_dump(mode="json", include={"teacher", "seed", "precision", "student"})
        for summary in hparams(dict(_leaves(shared | settings)), dict.fromkeys(_SHOWN, 0.0)):
            writer.file_writer.add_summary(summary)
        writer.add_text("recipe", f"```yaml\n{self._recipe.dump_yaml()}\n```", 0)

    def figures(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def clips(self, stage: str, step: int, folder: Path) -> None:
        if step > self._clips_seen:  # the last step's may be made twice
            self._clips_seen = step
            for i in range(len(self._recipe.logging.prompts)):
                shown = Summary.Value(tag=f"samples/{i}", image=_moving_image(folder / f"{i}.mp4"))
                self._writer.file_writer.add_summary(Summary(value=[shown]), step)
            self.flush()

    def flush(self) -> None:
        if self._writer is not None:
            self._writer.flush()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None


def _moving_image(path: Path) -> Any:
    """A clip as an endless GIF, as `add_video` writes it, for which torch would need moviepy."""
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate or 8)
        frames = [frame.to_image() for frame in container.decode(video=0)]
    for frame in frames:
        frame.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 / rate), loop=0)
    width, height = frames[0].size
    return Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif.getvalue())


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float | str | bool]]:
    """Dotted settings and their values; what is not a number is text."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{above}{name}.")
        elif value is not None:
            yield above + name, value if isinstance(value, bool | int | float) else str(value)
