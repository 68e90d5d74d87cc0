"""The last checkpoints of a stage, single files or in parts: which of them is resumed, and when they go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.distill import sharded_checkpoint
from fewstep.distill.checkpoint import (
    PREVIOUS,
    STATE_FILE,
    forget_checkpoints,
    forget_state,
    load_state,
    save_healthy,
    save_state,
)


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


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("step", None, "its step is None"), ("step", -5, "its step is -5"), ("step", float("nan"), "its step is nan"),
        ("drawn", "x", "its drawn is 'x'"), ("seconds", -1, "its seconds are -1"), ("rate", 2, "its rate is 2"),
        ("contract", "[" * 5000 + "]" * 5000, "recursion|deep|nested|levels"),
    ],
)  # fmt: skip
def test_numbers_of_a_checkpoint_in_parts_are_looked_at(tmp_path: Path, name: str, value: object, reason: str) -> None:
    numbers = {"stage": "s", "step": 3, "drawn": 3, "micro_batches": 1, "seconds": 1.0, "rate": 1.0, "contract": {}}
    folder = tmp_path / "state" / "step-000003"
    folder.mkdir(parents=True)
    text = json.dumps(numbers | {name: value})
    (folder / "numbers.json").write_text(text.replace(f'"{value}"', str(value)) if name == "contract" else text)
    with pytest.raises(ValueError, match=rf"numbers.json is broken \(.*({reason})"):
        sharded_checkpoint.find(tmp_path, "s")


def test_a_healthy_checkpoint_in_parts_outlives_the_next_single_file(tmp_path: Path) -> None:
    """A run that is resumed without shares can still go back to it."""
    for name in ("healthy", "step-000003"):
        folder = tmp_path / "state" / name
        folder.mkdir(parents=True)
        (folder / "numbers.json").write_text(json.dumps({"stage": "s", "step": 3, "drawn": 3, "seconds": 1.0}))
    save_state(tmp_path, state(4, "s"))
    assert sharded_checkpoint.find(tmp_path, "s") is None
    assert sharded_checkpoint.find(tmp_path, "s", healthy=True) is not None
    save_healthy(tmp_path, state(5, "s"))
    assert sharded_checkpoint.find(tmp_path, "s", healthy=True) is None


def test_steps_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Names have six digits, and stages up to ten million steps."""
    for step in (999_998, 1_000_000, 999_999):
        folder = tmp_path / "state" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        numbers = {"stage": "s", "step": step, "drawn": 1, "seconds": 1.0}
        (folder / "numbers.json").write_text(json.dumps(numbers))
    newest = sharded_checkpoint.find(tmp_path, "s")
    assert newest is not None and newest.name == "step-1000000"
