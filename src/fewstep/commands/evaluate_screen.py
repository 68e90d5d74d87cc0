"""What `fewstep evaluate` shows: a table of the figures, and what is wrong in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from fewstep.commands.progress import Screen

_SHOWN = (  # figures in the table, where they were taken
    "shapes-fd", "prompt-accuracy", "fvd", "fd-videomae", "fd-vjepa2", "lpips", "psnr", "ssim", "latent-mse",
    "motion-ratio", "flicker-ratio", "saturation-ratio", "diversity-rms-ratio", "diversity-lpips-ratio",
)  # fmt: skip


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


def say_warnings(rows: Sequence[Mapping[str, Any]], screen: Screen) -> None:
    """What is wrong with which model."""
    for row in rows:
        for warning in row["warnings"]:
            screen.warn(f"{row['model']} {warning}")


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return ""
    value, low, high = figure["value"], figure["low"], figure["high"]
    return f"{value:.3g} ±{max(high - value, value - low):.2g}"
