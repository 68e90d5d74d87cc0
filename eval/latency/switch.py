"""Changes of modules that can be taken back and made again, so that both ways can be timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Attribute = tuple[Any, str]  # an object and the name of an attribute of it


class Switch:
    """A change that is made at once: what it sets in these places, and what was there before."""

    def __init__(self, places: Iterable[Attribute], change: Callable[[], None]) -> None:
        self._places = list(places)
        self._before = self._values()
        try:
            change()
        except Exception:
            self.off()  # what was set so far
            raise
        self._after = self._values()

    def off(self) -> None:
        """As it was before."""
        self._fill(self._before)

    def on(self) -> None:
        """As the change made it; nothing is computed again."""
        self._fill(self._after)

    def _values(self) -> list[Any]:
        return [getattr(owner, name) for owner, name in self._places]

    def _fill(self, values: list[Any]) -> None:
        for (owner, name), value in zip(self._places, values, strict=True):
            setattr(owner, name, value)
