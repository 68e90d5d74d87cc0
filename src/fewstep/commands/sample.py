"""`fewstep sample`: clips from a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from torch import Tensor

    from fewstep.teacher.base import Teacher, VideoSize

DType = Literal["float32", "bfloat16", "float16"]


def sample(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="shapes, a diffusers folder or a hub id.")],
    out: Annotated[Path, typer.Option(help="clip.mp4, clip.gif, or sheet.png for a contact sheet.")],
    prompt: Annotated[list[str] | None, typer.Option(help="What to show; may be given several times.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file with one prompt per line.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What guidance leads away from.")] = "",
    steps: Annotated[int, typer.Option(min=1, help="Steps from noise to video.")] = 50,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance; 1 is none.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first clip; the next have the next ones.")] = 0,
    frames: Annotated[int | None, typer.Option(help="Frames per clip; the teacher's own if not given.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels; likewise.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels; likewise.")] = None,
    fps: Annotated[float, typer.Option(min=0.1, help="Frames per second of the file.")] = 8.0,
    batch: Annotated[int, typer.Option(min=1, help="Clips made at once; the clips stay the same.")] = 1,
    dtype: Annotated[DType, typer.Option(help="Precision of the denoiser.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda ...; the GPU if there is one.")] = None,
) -> None:
    """Make clips from prompts with a teacher."""
    from fewstep.teacher.video import check_suffix

    check_suffix(out)
    wanted = _prompts(prompt or [], prompts)

    import torch

    from fewstep.teacher.base import load_teacher

    loaded = load_teacher(teacher, getattr(torch, dtype), device)
    size = _size(loaded, frames, height, width)
    clips = _clips(loaded, wanted, negative_prompt, size, steps, guidance, seed, batch)
    _write(out, clips, wanted, fps)


def _prompts(given: list[str], file: Path | None) -> list[str]:
    listed = [] if file is None else [line.strip() for line in file.read_text("utf-8").splitlines()]
    found = given + [line for line in listed if line]
    if not found:
        raise ValueError("there is nothing to show: pass --prompt, or --prompts with a file of one prompt per line")
    return found


def _size(teacher: Teacher, frames: int | None, height: int | None, width: int | None) -> VideoSize:
    from fewstep.teacher.base import VideoSize

    own = teacher.default_size() or (None, None, None)
    chosen = [own[i] if side is None else side for i, side in enumerate((frames, height, width))]
    num_frames, height, width = chosen
    if num_frames is None or height is None or width is None:
        raise ValueError("the teacher does not say what size it makes: pass --frames, --height and --width")
    return VideoSize(num_frames, height, width)


def _clips(
    teacher: Teacher,
    prompts: list[str],
    negative_prompt: str,
    size: VideoSize,
    steps: int,
    guidance: float,
    seed: int,
    batch: int,
) -> Iterator[Tensor]:
    """One clip (3, F, H, W) in -1..1 per prompt, under a progress bar."""
    import torch
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    from fewstep.teacher.rollout import rollout

    shape, grid = teacher.latent_shape(*size), teacher.schedule.grid(steps)
    starts = range(0, len(prompts), batch)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("sampling", total=len(starts) * steps)
        for start in starts:
            some = prompts[start : start + batch]
            z = teacher.noise(range(seed + start, seed + start + len(some)), shape)
            conditions = teacher.conditions(some, negative_prompt)
            latents = rollout(teacher, z, conditions, grid, guidance, lambda _: progress.advance(bar))
            with torch.no_grad():
                yield from teacher.decode(latents)


def _write(out: Path, clips: Iterator[Tensor], prompts: list[str], fps: float) -> None:
    """A contact sheet, one clip, or numbered clips, each written as soon as it is made."""
    from fewstep.teacher.video import SHEET_SUFFIX, contact_sheet, to_uint8, write_image, write_video

    if out.suffix.lower() == SHEET_SUFFIX:
        write_image(out, contact_sheet([to_uint8(clip) for clip in clips], prompts))
        typer.echo(out)
        return
    digits = len(str(len(prompts) - 1))
    for i, clip in enumerate(clips):
        path = out if len(prompts) == 1 else out.with_stem(f"{out.stem}-{i:0{digits}d}")
        write_video(path, to_uint8(clip), fps)
        typer.echo(path)
