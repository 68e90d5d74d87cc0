"""What the verbs of `fewstep data` share: what they are told, and the run under a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from fewstep.commands.asked import DType, load, settle_dtype

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from fewstep.teacher.base import Teacher
    from fewstep.teacher.dataset import Source
    from fewstep.teacher.manifest import Kind, Manifest, Skip

SKIPPED = 3  # the exit code when items had to be skipped
_SHOWN = 20  # skipped items listed on the screen

Store = Literal["float16", "float32"]


@dataclass(frozen=True)
class Run:
    """What every verb that makes a dataset is told: where to, from which teacher, stored how."""

    out: Path
    teacher: str
    dtype: DType
    device: str | None
    store: Store
    rows_per_shard: int
    negative_prompt: str

    def load(self) -> Teacher:
        """The teacher, once it is sure that there is a place for what it makes.

        Raises ValueError for a folder that cannot be written into, a run's, or one with other things than a dataset.
        """
        from fewstep.distill.run_folder import run_around
        from fewstep.teacher.atomic import check_writable
        from fewstep.teacher.dataset import check_folder
        from fewstep.teacher.manifest import FILE_NAME, read_manifest

        if (run := run_around(self.out)) is not None:
            raise ValueError(f"{self.out} lies in a run's folder, {run}: choose another --out, outside of it")
        check_writable(self.out)
        check_folder(self.out)
        begun = read_manifest(self.out).precision if (self.out / FILE_NAME).exists() else None
        return load(self.teacher, settle_dtype(self.dtype, self.device, begun), self.device)

    def make(
        self,
        kind: Kind,
        model: Teacher,
        path: Path,
        items: Sequence[Sequence[object]],
        source: Source,
        left_out: Sequence[Skip] = (),
        **known: Any,
    ) -> None:
        """Makes the dataset of these items, listed in or lying in `path`; `known` is more for its manifest."""
        from fewstep.teacher.dataset_plan import plan_dataset

        plan = plan_dataset(
            kind,
            model,
            self.teacher,
            items,
            dtype=self.store,
            negative_prompt=self.negative_prompt,
            source=str(path.resolve()),
            rows_per_shard=self.rows_per_shard,
            **known,
        )
        _run(self.out, plan, model, source, left_out)


def _run(out: Path, plan: Manifest, teacher: Teacher, source: Source, left_out: Sequence[Skip]) -> None:
    """Makes the dataset under a progress bar, and leaves with SKIPPED when something is missing in it."""
    from rich.console import Console

    from fewstep.teacher.dataset import usable_line, write_dataset
    from fewstep.teacher.dataset_plan import unconditional_row
    from fewstep.teacher.manifest import FILE_NAME, read_manifest

    finished = read_manifest(out).num_done if (out / FILE_NAME).exists() else 0
    console = Console(stderr=True)
    with _progress(console) as progress:
        task = progress.add_task(plan.kind, total=plan.items, completed=finished)
        unconditional = unconditional_row(teacher, plan.negative_prompt)
        manifest = write_dataset(out, plan, unconditional, source, lambda: progress.advance(task), left_out)
    typer.echo(f"{manifest.rows} clips in {manifest.num_shards} shards: {out}", err=True)
    if line := usable_line(out, manifest):
        typer.echo(line, err=True)
        _print_skipped(manifest.skipped, out, console)
        raise typer.Exit(SKIPPED)


def _progress(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.3g} clips/s")

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
