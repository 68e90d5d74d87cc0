"""The trainer is stopped, asked to save, left alone and out of room: what was whole is kept, and nothing else."""

from __future__ import annotations

import errno
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from fewstep.distill.curves import Curves
from fewstep.teacher.interrupts import Signals, Stop, noted_signals
from fewstep.teacher.ranks import ProcessEnded
from tests.distill.one_stage import QUIET, Case, after, ignore, weights


@pytest.mark.parametrize(("turn", "kept"), [("discriminator", 2), ("student", 1)])
def test_a_process_that_ends_before_a_step_has_moved_anything_costs_that_step_alone(
    case: Case, monkeypatch: pytest.MonkeyPatch, turn: str, kept: int
) -> None:
    """Step 0 was warmed up and written; in step 2 the others end while gradients are averaged."""
    trainer = case.trainer("adversarial", steps=4)
    trainer.run(*after(1))
    trainer = case.trainer("adversarial", steps=4)
    gather = trainer.optimizer_groups[turn].gather

    def alone(accelerator: Accelerator, loss: float = 0.0) -> float:
        if trainer.step == 2:
            raise ProcessEnded("another process of this run has ended")
        return gather(accelerator, loss)

    monkeypatch.setattr(trainer.optimizer_groups[turn], "gather", alone)
    with pytest.raises(ProcessEnded):
        trainer.run(ignore, Signals())
    assert torch.load(case.folder / "state.pt", weights_only=True)["step"] == kept


def test_a_second_stop_in_the_middle_of_a_move_keeps_the_checkpoint(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.trainer().run(*after(2))
    kept = (case.folder / "state.pt").read_bytes()
    trainer = case.trainer()

    def stopped() -> None:
        raise Stop(signal.SIGTERM)

    monkeypatch.setattr(trainer.optimizer_groups["student"].optimizer, "step", stopped)
    with pytest.raises(Stop):
        trainer.run(ignore, Signals())
    assert (case.folder / "state.pt").read_bytes() == kept


def test_a_request_to_save_is_met_and_training_goes_on(case: Case) -> None:
    signals, text, kept = Signals(), list[str](), list[int]()

    def on_step(step: int, loss: float) -> None:
        if step in (2, 4):
            signals.receive(signal.SIGUSR1)

    def say(sentence: str) -> None:
        text.append(sentence)
        kept.append(torch.load(case.folder / "state.pt", weights_only=True)["step"])

    trainer = case.trainer()
    assert trainer.run(on_step, signals, say) == 0 and trainer.step == 6
    assert kept == [2, 4]
    assert text[0] == f"stage s is at step 2 of 6, saved in {case.folder / 'state.pt'}; training continues"


def test_a_stop_in_the_warm_up_keeps_its_rounds(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A discriminator's warm-up may take longer than a scheduler waits after SIGTERM."""
    settings: dict[str, Any] = {"steps": 2, "objective": {"kind": "adversarial", "warmup": 5}}
    whole = case.trainer(**settings)
    whole.run(ignore, Signals())
    ends, curve = weights(whole), case.curve()
    shutil.rmtree(case.folder)
    case.folder.mkdir()

    rounds = list[int]()
    for asked_in in (2, 4, 0):
        trainer, signals = case.trainer(**settings), Signals()
        teach = trainer.objective.lesson

        def lesson(*args: Any, **options: Any) -> Any:
            if trainer.step == 0 and trainer.rounds + 1 == asked_in:  # noqa: B023
                signals.receive(signal.SIGTERM)  # noqa: B023
            return teach(*args, **options)  # noqa: B023

        monkeypatch.setattr(trainer.objective, "lesson", lesson)
        trainer.run(ignore, signals)
        rounds.append(trainer.rounds)
        if asked_in:
            assert trainer.kept.startswith(f"stage s is at step 0 of 2 (warm-up rounds done: {asked_in}), saved in ")
    assert rounds == [2, 4, 0] and trainer.step == 2
    assert case.curve() == curve
    assert all(torch.equal(tensor, weights(trainer)[name]) for name, tensor in ends.items())


def test_a_round_that_fails_leaves_nothing_behind(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A discriminator's loss updates its scores, which a checkpoint has, before its gradient is known to be finite."""
    trainer = case.trainer("adversarial", steps=4)
    trainer.run(*after(1))
    kept = torch.load(case.folder / "state.pt", weights_only=True)
    trainer = case.trainer("adversarial", steps=4)
    network: Any = trainer.modules["discriminator"].network
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda *args: forward(*args) * torch.nan)
    with pytest.raises(ValueError, match="its first 1 steps are kept"):
        trainer.run(ignore, Signals())
    now = case.trainer("adversarial", steps=4)  # a checkpoint with numbers that are not finite is refused
    assert now.step == 1
    assert all(
        torch.equal(now.modules["discriminator"].state_dict()[k], v)
        for k, v in kept["modules"]["discriminator"].items()
    )


@pytest.mark.parametrize(
    ("seconds", "kept"), [(1e-9, "of its warm-up 2 rounds are kept"), (3600.0, "none of its steps is kept")]
)
def test_memory_that_runs_out_after_a_warm_up_says_what_was_saved_of_it(case: Case, seconds: float, kept: str) -> None:
    logging = QUIET.model_copy(update={"save_seconds": seconds})
    trainer = case.trainer("adversarial", steps=4, logging=logging)
    objective: Any = trainer.objective
    loss = objective.loss

    def full(turn: str, *args: Any) -> dict[str, torch.Tensor]:
        if turn == "student":
            raise MemoryError
        return dict(loss(turn, *args))

    objective.loss = full
    with pytest.raises(ValueError, match=f"memory ran out in step 1; {kept}"):
        trainer.run(ignore, Signals())
    assert case.trainer("adversarial", steps=4).rounds == (2 if "rounds" in kept else 0)


def test_a_request_to_save_before_the_first_step_says_that_there_is_nothing(case: Case) -> None:
    signals, text = Signals(), list[str]()
    signals.receive(signal.SIGUSR1)
    case.trainer().run(ignore, signals, text.append)
    assert text == ["stage s is at step 0 of 6, nothing to save yet; training continues"]


def test_a_checkpoint_is_not_written_twice(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    written = list[int]()
    monkeypatch.setattr(
        "fewstep.distill.stage_checkpoint.save_state", lambda folder, state: written.append(state["step"])
    )
    trainer = case.trainer()
    trainer.logging = QUIET.model_copy(update={"save_seconds": 1e-9})
    assert trainer.run(*after(3)) == signal.SIGTERM
    assert written == [1, 2, 3]


def test_a_checkpoint_that_cannot_be_written_is_not_tried_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[int]()

    def full(folder: Path, state: dict[str, Any]) -> None:
        tried.append(state["step"])
        raise OSError(errno.ENOSPC, "No space left on device", "state.pt")

    monkeypatch.setattr("fewstep.distill.stage_checkpoint.save_state", full)
    trainer = case.trainer()
    trainer.logging = QUIET.model_copy(update={"save_seconds": 1e-9})
    with pytest.raises(OSError, match="No space left"):
        trainer.run(ignore, Signals())
    assert tried == [1]


def test_a_step_without_its_point_on_the_curve_is_not_kept(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk was full for a moment: the curve must not have a hole ever after."""
    case.trainer().run(*after(2))
    kept, write = (case.folder / "state.pt").read_bytes(), Curves.write

    def full(curves: Curves, step: int, figures: dict[str, float]) -> None:
        if step == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(curves, step, figures)

    with monkeypatch.context() as patched:
        patched.setattr(Curves, "write", full)
        with pytest.raises(OSError, match="No space left"):
            case.trainer().run(ignore, Signals())
    assert (case.folder / "state.pt").read_bytes() == kept
    case.trainer().run(ignore, Signals())
    assert [point["step"] for point in case.curve()] == [1, 2, 3, 4, 5, 6]


def test_samples_that_a_stop_cut_short_are_made_on_a_resume(case: Case) -> None:
    made = list[int]()

    def samples(step: int) -> dict[str, float]:
        if step == 4 and not made.count(4):
            made.append(step)
            signal.raise_signal(signal.SIGTERM)
        made.append(step)
        return {"endpoint_error": step / 10}

    for stopped in (True, False):
        trainer = case.trainer()
        trainer.logging, trainer.samples = QUIET.model_copy(update={"samples_every": 2}), samples
        before = weights(trainer)
        with noted_signals() as signals:
            assert bool(trainer.run(ignore, signals)) is stopped
        assert trainer.step == (4 if stopped else 6)
        actual = weights(case.trainer())  # what the checkpoint holds is the student, not its EMA
        assert all(torch.equal(actual[name], weights(trainer)[name]) for name in before)
    assert made == [2, 4, 4, 6]
    assert [(p["step"], p.get("endpoint_error")) for p in case.curve()] == [
        (1, None), (2, None), (2, 0.2), (3, None), (4, None), (4, 0.4), (5, None), (6, None), (6, 0.6),
    ]  # fmt: skip


def test_samples_that_are_made_again_leave_one_point(case: Case) -> None:
    """Stopped just behind them: nobody knows whether they were whole."""
    for again in range(2):
        trainer = case.trainer(steps=3)
        trainer.logging = QUIET.model_copy(update={"samples_every": 2})
        trainer.samples = lambda step: {"endpoint_error": step / 10}
        trainer.run(*after(2 + again))
    assert [point["step"] for point in case.curve()] == [1, 2, 2, 3]
