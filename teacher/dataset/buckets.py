"""Datasets of clips of several sizes: a folder with buckets.json and, for each size, a dataset like any other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fewstep.teacher.dataset.manifest import MANIFEST_FILE
from fewstep.teacher.files.atomic import ELSEWHERE, whole_file
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.source import VideoSize, check_sizes, read_size, size_text
from fewstep.teacher.videos.shape import VideoShape, long_enough

BUCKETS_FILE = "buckets.json"
_VERSION = 1


def folder_of(folder: Path, size: VideoSize, sizes: Sequence[VideoSize]) -> Path:
    """Where the dataset of one of these sizes lies: in `folder` itself where there is no other."""
    return folder if len(sizes) == 1 else folder / size_text(size)


def datasets_in(folder: Path) -> tuple[Path, ...]:
    """The folders of the datasets of one size each, in order; a plain dataset is its own.

    Raises ValueError when buckets.json cannot be read.
    """
    sizes = _read(folder)
    return (folder,) if sizes is None else tuple(folder / size_text(size) for size in sizes)


def begin_buckets(folder: Path, sizes: Sequence[VideoSize], elsewhere: str = ELSEWHERE) -> None:
    """Writes buckets.json, where there are several sizes, before the first of their datasets is begun.

    Raises ValueError as `check_buckets`.
    """
    check_buckets(folder, sizes, elsewhere)
    if len(sizes) > 1 and not (folder / BUCKETS_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / BUCKETS_FILE) as part:
            part.write_text(json.dumps({"version": _VERSION, "sizes": list(map(size_text, sizes))}) + "\n")


def check_buckets(folder: Path, sizes: Sequence[VideoSize], elsewhere: str = ELSEWHERE) -> None:
    """Raises ValueError when a dataset of other sizes was begun in the folder."""
    there = _read(folder)
    if there is not None and there != list(sizes):
        raise ValueError(
            f"{folder} was begun with clips of {_listed(there)}, not {_listed(sizes)}: use the same sizes in the same "
            f"order, or {elsewhere}"
        )
    if there is None and len(sizes) > 1 and (folder / MANIFEST_FILE).exists():
        raise ValueError(f"{folder} was begun with clips of one size, not {_listed(sizes)}: {elsewhere}")


def deal_sizes(num_items: int, num_sizes: int, seed: int) -> list[int]:
    """Which size each item gets, as drawn from the seed: of any `num_sizes` items that follow one another from the
    first on, each gets another one, so that all sizes are as frequent."""
    rounds = -(-num_items // num_sizes)
    # each round is a shuffled deck with one card of each size
    cards = [np.random.default_rng([seed, n]).permutation(num_sizes) for n in range(rounds)]
    return [int(cards[i // num_sizes][i % num_sizes]) for i in range(num_items)]


def best_size(video: VideoShape | None, sizes: Sequence[VideoSize], fps: float) -> int:
    """The size, as its index, that a video fits best: of those that it is long enough for the one that keeps most of
    its image, to a tenth; of these the longest; of these the largest that the image need not be enlarged for, else
    the smallest. A video that is too short for all gets the shortest, one that is unknown (None) the first."""
    if video is None:
        return 0
    shortest = min(size.num_frames for size in sizes)

    def rank(index: int) -> tuple[float, ...]:
        size = sizes[index]
        # the share of the image that is left once it is cut to the size's shape
        kept = min(video.aspect * size.height / size.width, size.width / size.height / video.aspect)
        pixels = size.height * size.width
        enlarged = size.height > video.height or size.width > video.width
        return -round(kept, 1), -size.num_frames, enlarged, pixels if enlarged else -pixels

    fitting = [i for i, size in enumerate(sizes) if long_enough(video, size, fps)]
    return min(fitting or [i for i, size in enumerate(sizes) if size.num_frames == shortest], key=rank)


def _read(folder: Path) -> list[VideoSize] | None:
    """The sizes that buckets.json lists; None without one."""
    path = folder / BUCKETS_FILE
    if not path.is_file():
        return None
    try:
        content = parse_json(path.read_text("utf-8"))
        if content["version"] != _VERSION:
            raise ValueError(f"its version is {content['version']}, not {_VERSION}")
        sizes = list(map(read_size, content["sizes"]))
        check_sizes(sizes)
        return sizes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): make the dataset again") from error


def _listed(sizes: Sequence[VideoSize]) -> str:
    return ", ".join(map(size_text, sizes))
