"""What `fewstep evaluate` shows: a table of the figures, and what is wrong in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from fewstep.commands.progress import Screen

_FIRST = (  # figures in the table, where they were taken; those of other metrics follow
    "shapes-fd", "prompt-accuracy", "frame-psnr", "box-iou", "fvd", "fd-videomae", "fd-vjepa2", "lpips", "psnr", "ssim",
    "latent-mse", "motion-ratio", "flicker-ratio", "saturation-ratio", "diversity-rms-ratio", "diversity-lpips-ratio",
)  # fmt: skip
_IN_FILE_ONLY = ("temporal-error", "contrast-ratio", "blank", "broken")  # warnings tell of them where they are wrong


def figures_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A column per model; a figure that no verdict can stand on says so next to its name."""
    from rich.box import SIMPLE
    from rich.table import Table

    from fewstep.eval.caution import has_interval, why_inconclusive

    shown = any(has_interval(figure) for row in rows for figure in row["metrics"].values())
    caption = "± the farther end of the 95 % interval; both are in results.json" if shown else None
    table = Table(box=SIMPLE, padding=0, caption=caption)
    for heading in ("", *(row["model"] for row in rows)):
        table.add_column(heading, justify="right")
    table.add_row("evaluations", *(str(row.get("evaluations") or "") for row in rows))
    for name in _shown(rows):
        figures = [row["metrics"].get(name) for row in rows]
        why = next((words for figure in figures if figure and (words := why_inconclusive(figure))), None)
        table.add_row(f"{name} ({why})" if why else name, *map(_cell, figures))
    return table


def _shown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures of the table in its order; a ratio to the teacher's stands for the figure itself."""
    taken = dict.fromkeys(name for row in rows for name in row["metrics"])
    hidden = {name for name in taken if f"{name}-ratio" in taken or name.endswith(("-kernel", "-extrapolated"))}
    others = [name for name in taken if name not in (*_FIRST, *_IN_FILE_ONLY, *hidden)]
    return [*(name for name in _FIRST if name in taken), *others]


def say_warnings(rows: Sequence[Mapping[str, Any]], prompts: Sequence[str], screen: Screen) -> None:
    """What figures cannot say, and what is wrong with which model."""
    from fewstep.eval.caution import on_figures

    for sentence in on_figures(rows, prompts):
        screen.warn(sentence)
    for row in rows:
        for warning in row.get("warnings", ()):
            screen.warn(f"{row['model']} {warning}")


def _cell(figure: Mapping[str, Any] | None) -> str:
    from fewstep.eval.caution import has_interval

    if figure is None or figure["value"] is None:
        return ""
    value = figure["value"]
    if not has_interval(figure):
        return f"{value:.3g}"
    low, high = figure["low"], figure["high"]
    return f"{value:.3g} ±{max(high - value, value - low):.2g}"
