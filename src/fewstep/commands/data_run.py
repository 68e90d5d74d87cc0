"""What the verbs of `fewstep data` share: the teacher, the clip's size, and the run under a progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fewstep.teacher.base import Teacher, VideoSize
    from fewstep.teacher.dataset import Source
    from fewstep.teacher.manifest import Manifest, Skip

SKIPPED = 3  # the exit code when items had to be skipped
_SHOWN = 20  # skipped items listed on the screen

DType = Literal["float32", "bfloat16", "float16"]


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


def run(out: Path, plan: Manifest, teacher: Teacher, source: Source) -> None:
    """Makes the dataset under a progress bar, and leaves with SKIPPED when something is missing in it."""
    from rich.console import Console

    from fewstep.teacher.dataset import write_dataset
    from fewstep.teacher.dataset_plan import unconditional_row
    from fewstep.teacher.manifest import FILE_NAME, read_manifest

    unit = "prompts" if plan.kind == "prompts" else "clips"
    finished = read_manifest(out).num_done if (out / FILE_NAME).exists() else 0
    console = Console(stderr=True)
    with _progress(unit, console) as progress:
        task = progress.add_task(plan.kind, total=plan.items, completed=finished)
        unconditional = unconditional_row(teacher, plan.negative_prompt)
        manifest = write_dataset(out, plan, unconditional, source, lambda: progress.advance(task))
    typer.echo(f"{manifest.rows} {unit} in {manifest.num_shards} shards: {out}", err=True)
    if manifest.skipped:
        _print_skipped(manifest.skipped, out, console)
        raise typer.Exit(SKIPPED)


def _progress(unit: str, console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g} {unit}/s")

    name = TextColumn("{task.description}")
    return Progress(name, BarColumn(), MofNCompleteColumn(), Speed(), TimeLeft(), console=console)


def _print_skipped(skipped: list[Skip], out: Path, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from fewstep.teacher.dataset import REPORT

    table = Table("file", "reason", title=f"{len(skipped)} skipped")
    for skip in skipped[:_SHOWN]:
        table.add_row(escape(skip.file), escape(skip.reason))
    console.print(table)
    if len(skipped) > _SHOWN:
        typer.echo(f"and {len(skipped) - _SHOWN} more; all are listed in {out / REPORT}", err=True)
