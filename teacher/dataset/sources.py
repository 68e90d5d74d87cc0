"""What datasets are made from: videos, or the teacher's own rollouts."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
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
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.dataset.manifest import OF_BOTH, OF_TEXT, Skip
from fewstep.teacher.dataset.writing import DatasetRow
from fewstep.teacher.given import Given, files_of, given_identity, given_of_clips, read_given, to_pixels
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.rollout import rollout
from fewstep.teacher.source import VideoSize
from fewstep.teacher.videos.decoding import ClipShape, ClipStart, UnreadableVideo, check_video, decode_video

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
    size: VideoSize | None = None  # of the clips, if not the teacher's own: given images are cut to it
    picked: Sequence[int] | None = None  # which samples these are, where other datasets hold the rest

    def rows(self, items: range) -> Iterator[DatasetRow]:
        """Sample i is of prompt i modulo their number, started from noise of its own seed."""
        samples = items if self.picked is None else [self.picked[i] for i in items]
        for batch in batches(samples, self.batch_size):
            prompts = [self.prompts[i % len(self.prompts)] for i in batch]
            # noise follows from the item alone, however items are batched and dealt to processes
            seeds = [item_seed(self.seed, i) for i in batch]
            conditions = self.teacher.conditions(prompts, self.negative_prompt, self.size)
            noise = self.teacher.noise(seeds, self.shape)
            # the teacher's steps from pure noise (t = 1) to data (t = 0), guided as it is used
            grid = self.teacher.schedule.grid(self.steps)
            latents = rollout(self.teacher, noise, conditions, grid, self.guidance)
            for n, i in enumerate(batch):
                kept = {"noise": noise[n]} if self.keep_noise else {}
                tensors = {"latents": latents[n], **text_tensors(conditions, n), **kept}
                yield DatasetRow(item_id(i), str(prompts[n]), tensors, seeds[n])


@dataclass(frozen=True)
class VideoSource:
    """Video files of any size, rate and length, cut to one shape and encoded.

    captions may be prompts with files of what is given; `given` says which frames of a clip are given besides:
    name -> FIRST_FRAME or LAST_FRAME.
    """

    teacher: Teacher
    folder: Path
    files: Sequence[Path]
    captions: dict[Path, str] = field(repr=False)
    clip: ClipShape
    start: ClipStart = "centre"
    batch_size: int = 1
    given: Mapping[str, str] = field(default_factory=dict)

    def rows(self, items: range) -> Iterator[DatasetRow | Skip]:
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
                check_video(path)  # that it is not a video at all is the better reason
                return Skip(file=name, reason="no caption")
            caption, frames = self.captions[path], decode_video(path, self.clip, self.start)
            return _Clip(name, caption, frames, self._files(caption))
        except UnreadableVideo as error:
            return Skip(file=name, reason=str(error))
        except _UnreadableGiven as error:
            return Skip(file=name, reason=str(error))

    def _files(self, caption: str) -> Given:
        """What the caption's files show. Raises _UnreadableGiven for one that is missing or cannot be read."""
        # what the clip itself shows, such as its first frame, needs no file
        sizes = {n: size for n, size in self.teacher.given_sizes(self._size).items() if n not in self.given}
        if missing := [name for name in sizes if name not in files_of(caption)]:
            raise _UnreadableGiven(f"no {missing[0]} is given")
        try:
            return read_given([caption], sizes, self.clip.fps, self.start)
        except ValueError as error:
            raise _UnreadableGiven(str(error)) from error

    @property
    def _size(self) -> VideoSize:
        return VideoSize(self.clip.num_frames, self.clip.height, self.clip.width)

    @torch.no_grad()
    def _encoded(self, clips: list[_Clip]) -> list[DatasetRow]:
        frames = torch.from_numpy(np.stack([clip.frames for clip in clips])).movedim(-1, 1)
        files = {name: torch.cat([clip.given[name] for clip in clips]) for name in clips[0].given}
        # frames of the clips themselves, and what their files show
        given = {**given_of_clips(frames, self.given), **files}
        conditions = self.teacher.conditions([clip.caption for clip in clips], size=self._size, given=given)
        latents = self.teacher.place_given(self.teacher.encode(to_pixels(frames)), conditions)
        return [
            DatasetRow(clip.name, str(clip.caption), {"latents": latents[n], **text_tensors(conditions, n)})
            for n, clip in enumerate(clips)
        ]


@dataclass(frozen=True)
class _Clip:
    name: str
    caption: str
    frames: NDArray[np.uint8] = field(repr=False)
    given: Given = field(repr=False)


class _UnreadableGiven(ValueError):
    """Something that is given with a clip cannot be used; the message is the plain reason."""


def list_files(folder: Path, out: Path) -> list[Path]:
    """Every file below the folder, links to other folders included, that is meant to be a video: not hidden, no
    captions, images or subtitles, nothing under `out`.

    Raises ValueError when there is no such folder, or nothing in it, and for a subfolder that cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: pass one that holds videos")
    videos = [
        path for path in files_below(folder) if path.suffix.lower() not in _NOT_VIDEOS and not _lies_below(path, out)
    ]
    if not videos:
        raise ValueError(f"{folder} holds no files that could be videos: pass another folder")
    return videos


def video_item(path: Path, folder: Path, caption: str | None) -> tuple[object, ...]:
    """What tells a video of a folder from others, for JSON: its place, size in bytes, caption, and what it is given.

    When one of them changes, the dataset is another. Of a link the size is that of the file which it leads to.
    """
    try:
        num_bytes = path.stat().st_size
    except OSError:  # a link that leads nowhere costs its own clip alone
        num_bytes = path.lstat().st_size
    return (path.relative_to(folder).as_posix(), num_bytes, caption, *given_identity(caption))


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder, in order, also in folders that links lead to; none that is hidden, or lies in a hidden
    folder. Raises ValueError for a subfolder that cannot be read."""
    files = sorted(_every_file(folder))
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _every_file(folder: Path) -> Iterator[Path]:
    """Also those in folders that links lead to, each once."""

    def unreadable(error: OSError) -> None:
        raise ValueError(
            f"{error.filename} cannot be read ({error.strerror}): make it readable, or pass a folder without it"
        ) from error

    seen = set[str]()
    for root, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        # links last: a folder that lies here as well is known by its own name
        folders.sort(key=lambda name: (os.path.islink(os.path.join(root, name)), name))
        if (place := os.path.realpath(root)) in seen:
            folders.clear()
            continue
        seen.add(place)
        yield from (Path(root, name) for name in names)


def _lies_below(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a link that leads back to itself, which is skipped as no video
        return False


def text_tensors(conditions: Conditions, n: int) -> dict[str, Tensor]:
    """Sample n of the conditions, cut behind its own padding, under the names of a dataset's columns."""
    row = conditions.row(n)
    return {name: tensor[0] for name, tensor in named_tensors(row.positive, row.shared).items()}


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


def named_tensors(branch: Tensors, shared: Tensors) -> dict[str, Tensor]:
    """A branch of conditions and what both branches share, under the names of a dataset's columns."""
    text = {name if name == EMBEDDINGS else f"{OF_TEXT}{name}": tensor for name, tensor in branch.items()}
    return text | {f"{OF_BOTH}{name}": tensor for name, tensor in shared.items()}


def _ahead(function: Callable[[_S], _T], items: Iterable[_S], window: int) -> Generator[_T, None, None]:
    """function(item) in order, made by threads up to `window` items ahead; closed early, it begins no further item."""
    pool = ThreadPoolExecutor(min(window, os.cpu_count() or 1))
    try:
        waiting: deque[Future[_T]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            # results wait to be read, so that no more than the window is asked for ahead
            if len(waiting) > window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
