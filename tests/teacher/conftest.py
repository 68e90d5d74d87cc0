"""A Wan teacher of four blocks, which stand in an order and at depths, and time as signals know it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from fewstep.teacher import interrupts
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from tests.conftest import saved_once
from tests.tiny_pipelines import save_tiny_wan, tiny_transformer

tiny_wan_folder = saved_once(
    "tiny-wan-of-four", lambda folder: save_tiny_wan(folder, transformer=tiny_transformer(1, num_layers=4))
)


@pytest.fixture(scope="session")
def tiny_teacher(tiny_wan_folder: Path) -> Teacher:
    """The teacher of that folder, shared by all tests here."""
    return load_teacher(tiny_wan_folder, device="cpu")


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets so many seconds pass between two signals."""
    now = [100.0]
    monkeypatch.setattr(interrupts, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def pass_time(seconds: float) -> None:
        now[0] += seconds

    return pass_time
