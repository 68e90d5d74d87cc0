"""How models are named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.commands.options import parse_source
from fewstep.teacher.guidance import Guidance


def test_steps_and_guidance_stand_behind_a_source() -> None:
    assert parse_source("runs/wan") == ("runs/wan", None, None)
    assert parse_source("runs/wan@4") == ("runs/wan", 4, None)
    assert parse_source("shapes@50:7.5") == ("shapes", 50, Guidance.of("7.5"))


def test_a_folder_whose_name_ends_like_steps_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("wan", "wan@4"):
        (tmp_path / name).mkdir()
    assert parse_source("wan@4") == ("wan@4", None, None)
    assert parse_source("wan@4@2") == ("wan@4", 2, None)
    assert parse_source("wan@2") == ("wan", 2, None)
