"""What datasets are made from: videos, or the teacher's own rollouts."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions, cut_padding
from fewstep.teacher.dataset import Row
from fewstep.teacher.decode_video import ClipShape, Start, UnreadableVideo, check_video, decode_video
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.manifest import Skip
from fewstep.teacher.rollout import rollout

_T = TypeVar("_T")
_S = TypeVar("_S")
# captions and notes, thumbnails, subtitles: what people keep next to their videos
_NOT_VIDEOS = {
    *(".txt", ".csv", ".tsv", ".jsonl", ".json", ".md", ".yaml", ".yml", ".xml", ".nfo"),
    *(".jpg", ".jpeg", ".png", ".webp"),
    *(".srt", ".vtt", ".ass"),
}


@dataclass(frozen=True)
class Rollouts:
    """Guided samples of the teacher, as AnimateDiff-Lightning (arXiv 2403.12706) trains on: no real video."""

    teacher: Teacher
    prompts: Sequence[str]
    shape: tuple[int, int, int, int]  # of the latents (C, F, h, w)
    steps: int
    guidance: Guidance
    seed: int
    negative_prompt: str = ""
    keep_noise: bool = False
    batch_size: int = 1

    def rows(self, items: range) -> Iterator[Row]:
        """Item i is prompt i modulo their number, started from noise of its own seed."""
        for batch in batches(items, self.batch_size):
            prompts = [self.prompts[i % len(self.prompts)] for i in batch]
            seeds = [item_seed(self.seed, i) for i in batch]
            conditions = self.teacher.conditions(prompts, self.negative_prompt)
            noise = self.teacher.noise(seeds, self.shape)
            grid = self.teacher.schedule.grid(self.steps)
            latents = rollout(self.teacher, noise, conditions, grid, self.guidance)
            for n, i in enumerate(batch):
                kept = {"noise": noise[n]} if self.keep_noise else {}
                tensors = {"latents": latents[n], **text_tensors(conditions, n), **kept}
                yield Row(item_id(i), prompts[n], tensors, seeds[n])


@dataclass(frozen=True)
class Videos:
    """Video files of any size, rate and length, cut to one shape and encoded."""

    teacher: Teacher
    folder: Path
    files: Sequence[Path]
    captions: dict[Path, str] = field(repr=False)
    clip: ClipShape
    start: Start = "centre"
    batch_size: int = 1

    def rows(self, items: range) -> Iterator[Row | Skip]:
        """Files are decoded ahead, while the batch before them is encoded."""
        with closing(_ahead(self._read, items, self.batch_size)) as read_ahead:
            for batch in batches(read_ahead, self.batch_size):
                clips = [read for read in batch if isinstance(read, _Clip)]
                made = iter(self._encoded(clips) if clips else [])
                yield from (next(made) if isinstance(read, _Clip) else read for read in batch)

    def _read(self, item: int) -> _Clip | Skip:
        path = self.files[item]
        name = path.relative_to(self.folder).as_posix().encode(errors="replace").decode()  # JSON is UTF-8
        try:
            if path not in self.captions:
                check_video(path)  # that it is no video at all is the better reason
                return Skip(file=name, reason="no caption")
            return _Clip(name, self.captions[path], decode_video(path, self.clip, self.start))
        except UnreadableVideo as error:
            return Skip(file=name, reason=str(error))

    @torch.no_grad()
    def _encoded(self, clips: list[_Clip]) -> list[Row]:
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).movedim(-1, 1)
        latents = self.teacher.encode(frames.float() / 127.5 - 1)
        conditions = self.teacher.conditions([clip.caption for clip in clips])
        return [
            Row(clip.name, clip.caption, {"latents": latents[n], **text_tensors(conditions, n)})
            for n, clip in enumerate(clips)
        ]


@dataclass(frozen=True)
class _Clip:
    name: str
    caption: str
    frames: NDArray[np.uint8] = field(repr=False)


def list_files(folder: Path, out: Path) -> list[Path]:
    """Every file below the folder that is meant to be a video: not hidden, no captions, pictures or subtitles, nothing
    under `out`.

    Raises ValueError when there is no such folder, or nothing in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: pass one that holds videos")
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
        and path.suffix.lower() not in _NOT_VIDEOS
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.resolve().is_relative_to(out.resolve())
    ]
    if not found:
        raise ValueError(f"{folder} holds no files that could be videos: pass another folder")
    return found


def text_tensors(conditions: Conditions, n: int) -> dict[str, Tensor]:
    """Sample n of the conditions: its embeddings (L, D) and extras, each cut behind its own padding."""
    return {
        name: cut_padding(tensor[n : n + 1])[0] if tensor.ndim > 2 else tensor[n]
        for name, tensor in named_tensors(conditions).items()
    }


def item_id(item: int) -> str:
    """Sorts as the number does."""
    return f"{item:08d}"


def item_seed(seed: int, item: int) -> int:
    """A seed per item; datasets of neighbouring seeds share none."""
    return int(np.random.SeedSequence([seed, item]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of `size` items, the last one shorter."""
    batch: list[_T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def named_tensors(conditions: Conditions) -> dict[str, Tensor]:
    """What a dataset stores of conditions, under the names of its columns; the unconditional branch apart."""
    return {"embeddings": conditions.positive, **{f"extras.{n}": x for n, x in conditions.extras.items()}}


def _ahead(function: Callable[[_S], _T], items: Iterable[_S], window: int) -> Generator[_T, None, None]:
    """function(item) in order, made by threads up to `window` items ahead; closed early, it begins no further item."""
    pool = ThreadPoolExecutor(min(window, os.cpu_count() or 1))
    try:
        waiting: deque[Future[_T]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
