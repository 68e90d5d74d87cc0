"""Where long work shows how far it is; the command line has the one that people see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

OnStep = Callable[[int, float], None]  # steps done, the last loss
Report = Callable[[str, int, int], None]  # what is going on, how much is done, of how much


class TrainingScreen(Protocol):
    """What training needs of a screen."""

    def stage(self, name: str, total: int, done: int = 0) -> AbstractContextManager[OnStep]:
        """Training of `total` steps, of which `done` were done before: the `with` block reports each step."""

    def pieces(self, unit: str) -> AbstractContextManager[Report]:
        """One piece of work after another, each of a number of units."""

    def say(self, sentence: str) -> None:
        """One line, above all before something slow."""


class SilentScreen:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[OnStep]:
        """Takes reports."""
        yield lambda step, loss: None

    @contextmanager
    def pieces(self, unit: str) -> Iterator[Report]:
        """Takes reports."""
        yield lambda what, done, total: None

    def say(self, sentence: str) -> None:
        """Says nothing."""


SILENT = SilentScreen()
