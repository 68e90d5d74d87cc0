"""What the commands' tests share."""

from __future__ import annotations

import pytest


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dry run that does not count what a step takes of memory, which is slow: test_run_cost.py has that."""
    monkeypatch.setattr("fewstep.commands.run_cost.show_memory", lambda *_: None)
