"""The last two checkpoints of a stage that are single files: which of them is resumed, and when they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.distill.checkpoint import PREVIOUS, STATE_FILE, forget_checkpoints, forget_state, load_state, save_state


def state(step: int, stage: str = "4-step") -> dict[str, Any]:
    return {
        "stage": stage,
        "step": step,
        "drawn": step,
        "seconds": 1.0,
        "student": {"w": torch.full((3,), float(step))},
    }


def step_of(folder: Path, stage: str = "4-step") -> int | None:
    actual = load_state(folder, stage)
    return None if actual is None else actual["step"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path, state(step))
    assert names(tmp_path) == {STATE_FILE, PREVIOUS} and step_of(tmp_path) == 3
    (tmp_path / STATE_FILE).unlink()
    assert step_of(tmp_path) == 2
    save_state(tmp_path, state(4))  # of the stage that went on from there
    assert step_of(tmp_path) == 4
    (tmp_path / STATE_FILE).unlink()
    assert step_of(tmp_path) == 2


def test_a_broken_one_names_the_one_before(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    (tmp_path / STATE_FILE).write_bytes(b"PK\x03\x04 half")
    with pytest.raises(ValueError, match="delete it to begin the stage 4-step again"):
        load_state(tmp_path, "4-step")
    save_state(tmp_path, state(2))
    save_state(tmp_path, state(3))
    (tmp_path / STATE_FILE).write_bytes(b"PK\x03\x04 half")
    with pytest.raises(ValueError, match=r"state\.pt is broken .*: delete it to resume from the checkpoint before it"):
        load_state(tmp_path, "4-step")


def test_what_came_after_a_roll_back_is_not_the_one_before(tmp_path: Path) -> None:
    for step in (1, 5, 2):
        save_state(tmp_path, state(step))
    assert names(tmp_path) == {STATE_FILE} and step_of(tmp_path) == 2


def test_another_stage_leaves_none_of_the_one_before(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    save_state(tmp_path, state(2))
    save_state(tmp_path, state(1, "2-step"))
    assert names(tmp_path) == {STATE_FILE} and step_of(tmp_path) is None and step_of(tmp_path, "2-step") == 1


def test_a_failed_write_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, state(1))
    save_state(tmp_path, state(2))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("torch.save", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            with pytest.raises(OSError, match="No space"):
                save_state(tmp_path, state(3))
        assert step_of(tmp_path) == 2


def test_forgetting_a_stage_forgets_both(tmp_path: Path) -> None:
    save_state(tmp_path, state(1))
    save_state(tmp_path, state(2))
    forget_state(tmp_path, "2-step")
    assert step_of(tmp_path) == 2
    forget_state(tmp_path, "4-step")
    assert names(tmp_path) == set()
    save_state(tmp_path, state(1))
    (tmp_path / STATE_FILE).rename(tmp_path / PREVIOUS)  # as when a save was killed between its two renames
    forget_state(tmp_path, "4-step")
    assert names(tmp_path) == set()
    save_state(tmp_path, state(1))
    save_state(tmp_path, state(2))
    forget_checkpoints(tmp_path)
    assert names(tmp_path) == set()
