"""What verbs that ask a teacher share: its precision, its clip's size and rate, and checks of numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from fewstep.teacher.base import Teacher, VideoSize

DType = Literal["float32", "bfloat16", "float16"]

Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda ...; the GPU if there is one.")]
Frames = Annotated[int | None, typer.Option("--frames", help="Frames of a clip; the teacher's by default.")]
Height = Annotated[int | None, typer.Option("--height", help="Pixels; the teacher's by default.")]
Width = Annotated[int | None, typer.Option("--width", help="Pixels; the teacher's by default.")]
Fps = Annotated[float | None, typer.Option("--fps", help="Frames per second; the teacher's by default.")]

MAX_SEED = 2**63 - 1  # a signed 64-bit number, as Parquet stores it


def load(name: str, dtype: DType, device: str | None) -> Teacher:
    """The teacher, its denoiser and text encoder in this dtype, on the GPU if there is one."""
    import torch

    from fewstep.teacher.base import load_teacher

    return load_teacher(name, getattr(torch, dtype), device)


def size_of(teacher: Teacher, frames: int | None, height: int | None, width: int | None) -> VideoSize:
    """The clip's size as asked for, else the teacher's own. Raises ValueError when it has none."""
    from fewstep.teacher.base import VideoSize

    default = teacher.default_size() or (None, None, None)
    pairs = zip((frames, height, width), default, strict=True)
    found = [side for asked, usual in pairs if (side := usual if asked is None else asked) is not None]
    if len(found) < 3:
        raise ValueError("the teacher states no size of its own: pass --frames, --height and --width")
    return VideoSize(*found)


def check_guidance(guidance: float) -> None:
    """Raises ValueError for NaN and infinity."""
    if not math.isfinite(guidance):
        raise ValueError(f"--guidance is {guidance}; it must be a finite number, and 1 means none")
