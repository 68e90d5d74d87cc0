"""Time as signals know it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from fewstep.teacher import interrupts


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many seconds pass between two signals."""
    now = [100.0]
    monkeypatch.setattr(interrupts, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    return pass_time
