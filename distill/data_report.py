"""What a run says of its data at every start: what was left out of it, and whether enough is left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.distill.data import captioned_videos
from fewstep.distill.settings import DatasetData, RolloutData, VideoData
from fewstep.teacher.base import Teacher
from fewstep.teacher.dataset.buckets import datasets_in
from fewstep.teacher.dataset.caption_files import read_prompts
from fewstep.teacher.dataset.manifest import Unmatched, read_manifest
from fewstep.teacher.dataset.reader import read_stored_captions
from fewstep.teacher.dataset.writing import usable_line


@dataclass(frozen=True)
class DataText:
    """What the text encoder gets of a run's data, and the entries of captions that describe no video."""

    prompts: Sequence[str]
    unmatched: Unmatched | None = None


def read_data_text(settings: RolloutData | VideoData | DatasetData, out: Path) -> DataText:
    """Prompts or captions with the negative prompt; `out` is where the run's own dataset goes.

    Raises ValueError for prompts, captions or a dataset that cannot be read.
    """
    if isinstance(settings, DatasetData):
        folders = datasets_in(settings.folder)
        captions = [text for dataset in folders for text in read_stored_captions(dataset, read_manifest(dataset))]
        first = read_manifest(folders[0])
        return DataText([*captions, first.negative_prompt], first.unmatched)
    if isinstance(settings, RolloutData):
        return DataText([*read_prompts(settings.prompts), settings.negative_prompt])
    _, described = captioned_videos(settings, out)
    return DataText([*described.texts.values(), settings.negative_prompt], described.unmatched)


def check_usable(settings: RolloutData | VideoData | DatasetData, folder: Path) -> str | None:
    """How many clips of the dataset in `folder` could be used, where some could not; of several sizes a line for each.

    Raises ValueError when they are a smaller fraction than `data.min_usable`, of all sizes together.
    """
    manifests = {dataset: read_manifest(dataset) for dataset in datasets_in(folder)}
    lines = [line for dataset, manifest in manifests.items() if (line := usable_line(dataset, manifest)) is not None]
    report = "; ".join(lines)
    if not lines or isinstance(settings, RolloutData):
        return report or None
    # a single size may fall short, as long as all together have enough
    usable = sum(manifest.rows for manifest in manifests.values()) / sum(
        manifest.num_done for manifest in manifests.values()
    )
    if usable < settings.min_usable:
        first = next(skip for manifest in manifests.values() for skip in manifest.skipped)
        report = f"{report} (such as {first.file}: {first.reason})"
        raise ValueError(
            too_few(report, settings.min_usable, usable, f"fix the data and remove {folder} to make it again")
        )
    return report


def other_inputs(teacher: Teacher, folder: Path) -> str | None:
    """In which inputs of the denoiser the rollouts in `folder` differ from this teacher as it is set, where they do.

    They are trained on all the same: rollouts are clean latents, which any supervision can start from.
    """
    made = [read_manifest(dataset).schedule for dataset in datasets_in(folder)]
    differing = {
        f"{name} {_plain(then)}, not {_plain(now)}"
        for name, now in teacher.denoiser_inputs.items()
        for then in (getattr(schedule, name) for schedule in made)
        if then is not None and _plain(then) != _plain(now)
    }
    if not differing:
        return None
    return f"the rollouts in {folder} were made with {' and '.join(sorted(differing))} as in this recipe"


def _plain(value: Sequence[float] | float) -> str:
    return ",".join(f"{number:g}" for number in (value if isinstance(value, Sequence) else (value,)))


def too_few(line: str, least: float, usable: float, remedy: str) -> str:
    """The sentence for fewer usable clips than `data.min_usable`; `line` says how many, `usable` is their fraction."""
    allowed = math.floor(usable * 100) / 100
    return f"{line}, and data.min_usable is {least:g}: {remedy}, or --set data.min_usable={allowed:g}"
