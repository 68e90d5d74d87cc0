"""What a tracker takes, and one that keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self


class Tracker(Protocol):
    """What a tracker takes. Leaving it as a context manager ends its run, as failed where an error ends the block."""

    def begin(self, stage: str, step: int, seen: int) -> None:
        """A stage starts or resumes after `step` steps; its points up to `seen` came before a stop."""

    def figures(self, stage: str, step: int, figures: Mapping[str, float]) -> None:
        """The figures of a stage after `step` steps."""

    def clips(self, stage: str, step: int, folder: Path) -> None:
        """Sample clips 0.mp4, 1.mp4 ... of `logging.prompts`."""

    def flush(self) -> None:
        """Sends what waits."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None: ...


class NoTracker:
    """Takes everything and keeps nothing."""

    def begin(self, stage: str, step: int, seen: int) -> None: ...

    def figures(self, stage: str, step: int, figures: Mapping[str, float]) -> None: ...

    def clips(self, stage: str, step: int, folder: Path) -> None: ...

    def flush(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None: ...
