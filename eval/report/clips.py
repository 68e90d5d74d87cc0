"""The clips inside a page: the same prompts and noise for every model, few enough that the page stays light."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av

MAX_BYTES = 40 * 2**20  # of all clips of one player


class Shape(NamedTuple):
    """How a clip is played."""

    fps: float
    frames: int
    width: int
    height: int


def clip_set(columns: Mapping[str, Sequence[Path]], prompts: Sequence[str], count: int) -> dict[str, Any] | None:
    """Clips of the first `count` prompts, or of as many as fit into MAX_BYTES; None where there are none.

    Model -> a path per prompt, whose file need not be there. Raises ValueError for a clip that cannot be read.
    """
    there = {name: [path for path in paths if path.is_file()] for name, paths in columns.items()}
    columns = {name: paths for name, paths in columns.items() if there[name]}
    if not columns:
        return None
    chosen = _chosen(list(columns.values()), min(count, len(prompts)))
    shape = _shape(there[next(iter(columns))][0])
    return {
        **shape._asdict(),
        "prompts": [prompts[i] for i in chosen],
        "models": [{"name": name, "clips": [_encoded(paths[i]) for i in chosen]} for name, paths in columns.items()],
    }


def _chosen(columns: Sequence[Sequence[Path]], count: int) -> list[int]:
    """Prompts with a clip of any model, as many as there is room for, but one at least."""
    sizes = [sum(paths[i].stat().st_size for paths in columns if paths[i].is_file()) for i in range(count)]
    chosen: list[int] = []
    for i, size in enumerate(sizes):
        if size and (not chosen or sum(sizes[j] for j in chosen) + size <= MAX_BYTES):
            chosen.append(i)
    return chosen


def _encoded(path: Path) -> str | None:
    return base64.b64encode(path.read_bytes()).decode() if path.is_file() else None


def _shape(path: Path) -> Shape:
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # not every file states how many frames it has
            frames = stream.frames or sum(1 for _ in container.decode(stream))
            return Shape(float(stream.average_rate or 8), frames, stream.width, stream.height)
    except (av.error.FFmpegError, IndexError) as error:
        raise ValueError(f"{path} cannot be read as a clip ({error}): delete it and evaluate again") from error
