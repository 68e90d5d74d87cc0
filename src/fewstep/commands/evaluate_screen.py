"""What `fewstep evaluate` shows: a bar, a table of the figures, and what is wrong in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from fewstep.eval.metrics.shapes import Progress

_SHOWN = (  # figures in the table, where they were taken
    "shapes-fd", "prompt-accuracy", "fvd", "fd-videomae", "fd-vjepa2", "lpips", "psnr", "ssim", "latent-mse",
    "motion-ratio", "flicker-ratio", "saturation-ratio", "diversity-rms-ratio", "diversity-lpips-ratio",
)  # fmt: skip


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar that is told what is going on, how much is done, and of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("opening")
        yield lambda what, done, total: progress.update(bar, description=what, completed=done, total=total)


def figures_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A column per model."""
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE, padding=0, caption="± the farther end of the 95 % interval; both are in results.json")
    for heading in ("", *(row["model"] for row in rows)):
        table.add_column(heading, justify="right")
    table.add_row("evaluations", *(str(row["evaluations"] or "") for row in rows))
    for name in _SHOWN:
        if any(name in row["metrics"] for row in rows):
            table.add_row(name, *(_cell(row["metrics"].get(name)) for row in rows))
    return table


def say_warnings(rows: Sequence[Mapping[str, Any]]) -> None:
    """What is wrong with which model."""
    for row in rows:
        for warning in row["warnings"]:
            typer.secho(f"{row['model']} {warning}", fg="yellow", err=True)


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    value, low, high = figure["value"], figure["low"], figure["high"]
    return f"{value:.3g} ±{max(high - value, value - low):.2g}"
