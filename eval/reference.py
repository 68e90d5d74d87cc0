"""Real clips that models are compared with: those of the embedded world, or a folder of videos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.metrics.shapes import REAL_SEED, REFERENCE_SEED
from fewstep.teacher.dataset.sources import files_below
from fewstep.teacher.shapes.judge import batch
from fewstep.teacher.videos.decoding import SUFFIXES, ClipShape, UnreadableVideo, check_video, decode_video


@dataclass(frozen=True)
class ClipSource:
    """A number of clips that can be read in any order; `protocol` says which they are."""

    count: int
    read: Callable[[range], Tensor]  # -> videos (B, 3, F, H, W) in -1..1
    protocol: dict[str, Any]


@dataclass(frozen=True)
class RealClips:
    """Clips that distances are taken to, and others whose own distance to them is the floor, where there are any."""

    reference: ClipSource
    floor: ClipSource | None


def world_clips(reference: int, num: int, seed: int) -> RealClips:
    """Held-out clips of the shapes world."""

    def source(count: int, seed: int) -> ClipSource:
        protocol = {"kind": "held-out clips of the shapes world", "clips": count, "seed": seed}
        return ClipSource(count, lambda rows: batch("held-out", seed, rows)[0], protocol)

    return RealClips(source(reference, REFERENCE_SEED), source(num, REAL_SEED + seed))


def reference_videos(folder: Path) -> list[Path]:
    """The videos in a folder of real ones, judged by their headers.

    Raises ValueError when there is no such folder, it holds fewer than three, or one that is broken.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} for --reference: pass a folder of real videos")
    files = [path for path in files_below(folder) if path.suffix.lower() in SUFFIXES]
    if len(files) < 3:
        raise ValueError(f"--reference {folder} holds {len(files)} videos: pass a folder of at least 3 real videos")
    # all files are looked at, so that one message says how many are broken
    broken: dict[Path, str] = {}
    for path in files:
        try:
            check_video(path)
        except UnreadableVideo as error:
            broken[path] = str(error)
    if broken:
        path, reason = next(iter(broken.items()))
        more = f", and {len(broken) - 1} more of {len(files)} files" if len(broken) > 1 else ""
        raise ValueError(f"{path} cannot be a reference: {reason}{more}; take it out of {folder}")
    return files


def folder_clips(folder: Path, shape: ClipShape, num: int) -> RealClips:
    """The videos in a folder, a clip from the middle of each; `num` of them are the floor where as many are left.

    They are drawn by a hash of their names: folders are often sorted by class, and the floor must be of all classes.
    Raises ValueError as `reference_videos`.
    """
    files = sorted(reference_videos(folder), key=lambda path: _name_sha256(folder, path))

    def source(files: list[Path]) -> ClipSource:
        protocol = {
            "kind": "real videos",
            "clips": len(files),
            "order": "by a hash of their names",
            "files_sha256": _files_sha256(folder, files),
        }
        protocol |= {
            "cut": "from the centre of what a player shows, scaled to cover the clip (bicubic)",
            **asdict(shape),
        }
        return ClipSource(len(files), lambda rows: torch.stack([_read(files[row], shape) for row in rows]), protocol)

    # clips of the floor are kept out of the reference
    held = num if len(files) >= 2 * num else 0
    return RealClips(source(files[held:]), source(files[:held]) if held else None)


def _name_sha256(folder: Path, path: Path) -> str:
    return hashlib.sha256(path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape")).hexdigest()


def _read(path: Path, shape: ClipShape) -> Tensor:
    """(3, F, H, W) in -1..1"""
    try:
        frames = decode_video(path, shape)
    except UnreadableVideo as error:
        raise ValueError(f"{path} cannot be a reference: {error}; take it out of the folder") from error
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1


def _files_sha256(folder: Path, files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name} {content}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
