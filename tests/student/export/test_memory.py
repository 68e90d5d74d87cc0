"""What is said of memory before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from fewstep.student.export import memory
from fewstep.student.export.memory import gib_of_export, memory_said
from fewstep.teacher.outline import outline_teacher


def test_a_large_model_says_what_it_takes(tiny_wan_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = outline_teacher(tiny_wan_folder).teacher
    own = 4 * sum(p.numel() for p in teacher.denoiser.parameters()) / 2**30
    assert 4.5 * own < gib_of_export(teacher) < 4.5 * own + 0.01  # the other parts once
    assert memory_said(teacher) == ("", False)
    monkeypatch.setattr(memory, "gib_of_export", lambda teacher: 70.4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 32 * 2**30})())
    assert memory_said(teacher) == ("it takes about 70 GiB of memory without activations, and 32 GiB are free", True)
