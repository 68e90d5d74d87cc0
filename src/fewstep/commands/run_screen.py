"""Where a run shows how far it is: a bar for its clips, one for each stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunScreen:
    """Prints to standard error."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)

    @contextmanager
    def clips(self) -> Iterator[Callable[[int, int], None]]:
        """A bar for making the data, told the clips done and planned; it shows only when there is something to make."""
        with Progress(*_columns(), console=self._console) as progress:
            bar = progress.add_task("data", total=None, visible=False)
            yield lambda done, total: progress.update(bar, completed=done, total=total, visible=True)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int, float], None]]:
        """A bar for one stage, told the steps done and the last loss."""
        columns = (*_columns(), TextColumn("loss {task.fields[loss]:.4f}"))
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task(name, total=total, loss=math.nan)
            yield lambda step, loss: progress.update(bar, completed=step, loss=loss)

    def say(self, sentence: str) -> None:
        """One line."""
        self._console.print(sentence, markup=False, highlight=False, soft_wrap=True)


def _columns() -> tuple[TextColumn, BarColumn, MofNCompleteColumn, TimeRemainingColumn]:
    return TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
