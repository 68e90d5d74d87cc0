"""Checkpoints that a thread writes: of the step at which they were begun, whatever training does meanwhile."""

from __future__ import annotations

import errno
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from fewstep.distill import stage_checkpoint
from fewstep.distill.background_save import BackgroundSave, in_main_memory
from fewstep.distill.checkpoint import save_state
from fewstep.teacher.interrupts import Signals
from tests.distill.one_stage import EVERY_STEP, Case, after, ignore, weights

STAGE: dict[str, Any] = {"kind": "adversarial", "steps": 4, "batch": 2}


def in_folder(case: Case, name: str) -> Case:
    (case.folder / name).mkdir()
    return Case(case.teacher, case.data, case.folder / name)


def test_a_run_resumes_bit_for_bit(case: Case) -> None:
    ends = []
    for name, stops in (("whole", (0,)), ("stopped", (2, 3, 0))):
        own = in_folder(case, name)
        for stop in stops:
            trainer = own.trainer(**STAGE, logging=EVERY_STEP)
            trainer.run(*(after(stop) if stop else (ignore, Signals())))
        ends.append(weights(trainer))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_it_holds_the_step_at_which_it_was_begun(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread only writes once training is two steps further."""
    further, written = Event(), list[dict[str, Any]]()

    def late(folder: Path, state: dict[str, Any]) -> None:
        assert further.wait(60)
        save_state(folder, state)
        written.append(torch.load(folder / "state.pt", weights_only=True))

    monkeypatch.setattr(stage_checkpoint, "save_state", late)
    slow = in_folder(case, "slow").trainer(**STAGE, logging=EVERY_STEP.model_copy(update={"save_seconds": 3600.0}))

    def on_step(step: int, loss: float) -> None:
        if step == 1:
            slow._saved_at = -1e9  # due after this step alone
        if step == 3:
            further.set()

    slow.run(on_step, Signals())
    monkeypatch.undo()
    sync = in_folder(case, "sync").trainer(**STAGE)
    sync.run(*after(1))
    expected = torch.load(case.folder / "sync" / "state.pt", weights_only=True)
    first = written[0]
    assert first["step"] == expected["step"] == 1 and written[-1]["step"] == 4
    for part in ("student", "average"):
        assert all(torch.equal(first[part][name], expected[part][name]) for name in expected[part])
    moments = expected["optimizers"]["student"]["state"]
    assert moments and all(
        torch.equal(first["optimizers"]["student"]["state"][i]["exp_avg"], moments[i]["exp_avg"]) for i in moments
    )


def test_a_full_disk_ends_training_and_the_next_try_goes_on(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, state: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer = case.trainer(**STAGE, logging=EVERY_STEP)
    monkeypatch.setattr(stage_checkpoint, "save_state", full)
    with pytest.raises(OSError, match="No space left"):
        trainer.run(ignore, Signals())
    assert trainer.step < 4 and not (case.folder / "state.pt").exists()
    monkeypatch.undo()
    trainer.run(ignore, Signals())
    assert torch.load(case.folder / "state.pt", weights_only=True)["step"] == 4


def test_one_is_written_at_a_time_and_an_error_is_raised_once() -> None:
    saves, order, go = BackgroundSave(), list[int](), Event()

    def first() -> None:
        go.wait(60)
        order.append(1)

    saves.begin(first)
    go.set()
    saves.begin(lambda: order.append(2))
    saves.finish()
    assert order == [1, 2]

    def broken() -> None:
        raise ValueError("broken")

    saves.begin(broken)
    with pytest.raises(ValueError, match="broken"):
        saves.finish()
    saves.finish()


def test_copies_share_nothing() -> None:
    nested = {"a": {"b": torch.zeros(3)}, "step": 4}
    copied = in_main_memory(nested)
    nested["a"]["b"].add_(1)  # type: ignore[index]
    assert copied["step"] == 4 and not copied["a"]["b"].any()
