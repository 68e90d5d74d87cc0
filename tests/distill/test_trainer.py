"""The trainer: an interrupted stage equals an uninterrupted one bit for bit, and nothing done is lost."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from fewstep.distill.batches import Batches
from fewstep.distill.discriminator import Discriminator
from fewstep.distill.objectives.adversarial import AdversarialObjective
from fewstep.distill.objectives.base import Batch, Objective
from fewstep.distill.objectives.progressive import ProgressiveObjective
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.settings import Logging, Stage
from fewstep.distill.trainer import Trainer
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles, Train
from fewstep.teacher.base import Teacher
from fewstep.teacher.interrupts import Signals

QUIET = Logging(tracker="none", every=1)


@dataclass
class Case:
    """One stage of a tiny teacher, begun as often as asked."""

    teacher: Teacher
    data: Path
    folder: Path

    def trainer(self, kind: str = "progressive", train: Train = "full", **stage: Any) -> Trainer:
        torch.manual_seed(0)
        settings = Stage.model_validate(
            {
                "name": "s", "teacher_steps": 4, "student_steps": 2, "steps": 6, "batch": 4, "lr": 1e-3, "warmup": 1,
                "objective": {"kind": kind} | ({"warmup": 2} if kind == "adversarial" else {}),
            }
            | stage
        )  # fmt: skip
        roles = Roles(self.teacher, train, rank=4)
        batches = Batches(self.data, self.teacher, seed=0, stage=0)
        return Trainer(
            settings,
            roles,
            self.objective(settings, roles, batches),
            batches,
            self.contract(settings, train),
            Accelerator(cpu=True),
            QUIET,
            self.folder,
        )

    def contract(self, stage: Stage, train: Train) -> SamplingContract:
        size = self.teacher.default_size()
        assert size is not None
        return SamplingContract.of(self.teacher, "tiny", stage.student_steps, train, size, 1.0, "", 8.0)

    def objective(self, stage: Stage, roles: Roles, batches: Batches) -> Objective:
        supervision = Supervision(stage.teacher_steps, stage.student_steps)
        if stage.objective.kind == "progressive":
            return ProgressiveObjective(stage.objective, supervision)
        example = batches.batch(0, 1, 0.0)
        discriminator = Discriminator(
            self.teacher, roles.backbone, stage.objective.discriminator, example.x0.shape[1:], example.conditions,
            stage.objective.conditional,
        )  # fmt: skip
        return AdversarialObjective(stage.objective, supervision, discriminator)

    def curve(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "curves" / "s.jsonl").read_text().splitlines()]


@pytest.fixture
def case(tiny_teacher: Teacher, tiny_dataset: Path, tmp_path: Path) -> Case:
    (tmp_path / "run").mkdir()
    return Case(tiny_teacher, tiny_dataset, tmp_path / "run")


def ignore(step: int, loss: float) -> None:
    pass


def after(steps: int, number: int = signal.SIGTERM) -> tuple[Callable[[int, float], None], Signals]:
    """A run's `on_step` and `signals` that stop it after so many steps."""
    signals = Signals()
    return lambda step, loss: signals.receive(number) if step >= steps else None, signals


def weights(trainer: Trainer) -> dict[str, Tensor]:
    found = {name: p.detach().clone() for name, p in trainer.roles.parameters.items()}
    return found | {f"average {name}": p.clone() for name, p in trainer.roles.average.items()}


RELAXED = {"kind": "adversarial", "warmup": 2, "conditional": False, "discriminator": {"backbone": "lora"}}
TRAINED = {"kind": "adversarial", "warmup": 2, "discriminator": {"backbone": "trained"}}


@pytest.mark.parametrize(
    ("kind", "train", "stage"),
    [
        ("progressive", "full", {}),
        ("adversarial", "full", {}),
        ("adversarial", "lora", {}),
        ("adversarial", "lora", {"objective": RELAXED, "accumulate": 2}),
        ("adversarial", "full", {"objective": TRAINED}),
    ],
)
def test_a_resumed_stage_equals_an_uninterrupted_one_bit_for_bit(
    case: Case, tmp_path: Path, kind: str, train: Train, stage: dict[str, Any]
) -> None:
    whole = case.trainer(kind, train, **stage)
    whole.run(ignore, Signals())
    expected, curve = weights(whole), case.curve()

    case.folder = tmp_path / "again"
    case.folder.mkdir()
    case.trainer(kind, train, **stage).run(*after(3))
    resumed = case.trainer(kind, train, **stage)
    assert resumed.step == 3
    resumed.run(ignore, Signals())
    found = weights(resumed)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert case.curve() == curve and len(curve) == 6


def test_points_beyond_the_checkpoint_are_taken_back(case: Case) -> None:
    trainer = case.trainer()
    trainer.run(*after(3))
    path = case.folder / "curves" / "s.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "student/loss": 99}\n{"step": 5, "stu')
    case.trainer().run(ignore, Signals())
    steps = [point["step"] for point in case.curve()]
    assert steps == [1, 2, 3, 4, 5, 6] and case.curve()[3]["student/loss"] != 99


def test_micro_batches_give_the_gradient_of_the_whole(case: Case) -> None:
    """Not bit for bit, as clips are drawn per micro-batch; so the same clip twice must weigh as once."""
    whole = case.trainer(batch=2, steps=1, clip=1e9)
    halves = case.trainer(batch=2, steps=1, accumulate=2, clip=1e9)
    one = whole.batches.batch(0, 1, 0.0)
    state = one.generator.get_state()

    def same(position: int, size: int, progress: float) -> Any:
        one.generator.set_state(state)
        return one

    for trainer in (whole, halves):
        trainer.batches.batch = same  # type: ignore[method-assign]
        trainer.run(ignore, Signals())
        (case.folder / "state.pt").unlink()
    first, second = weights(whole), weights(halves)
    assert all(torch.allclose(first[name], second[name], atol=1e-7) for name in first)


def test_loss_falls(case: Case) -> None:
    trainer = case.trainer(steps=40, lr=3e-3, batch=8)
    trainer.run(ignore, Signals())
    losses = [point["student/loss"] for point in case.curve()]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_not_a_number_stops_the_run_and_keeps_the_weights_before(case: Case) -> None:
    trainer = case.trainer(steps=4)
    trainer.run(*after(2))
    broken = case.trainer(steps=4)
    before = weights(broken)
    original = broken.batches.batch

    def poisoned(position: int, size: int, progress: float) -> Any:
        batch = original(position, size, progress)
        batch.x0.fill_(torch.nan)
        return batch

    broken.batches.batch = poisoned  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"stage s: the student's loss is nan .* at step 2; .*lower its learning rate"):
        broken.run(ignore, Signals())
    kept = weights(case.trainer(steps=4))
    assert all(torch.equal(kept[name], before[name]) for name in before)


def test_half_a_step_is_never_kept(case: Case) -> None:
    """The discriminator has moved when the student's loss turns out not to be finite."""
    trainer = case.trainer("adversarial", steps=4)
    trainer.run(*after(2))
    kept = (case.folder / "state.pt").read_bytes()
    broken = case.trainer("adversarial", steps=4)
    original = broken.objective.loss

    def poisoned(turn: str, batch: Batch, roles: Any, step: int) -> dict[str, Tensor]:
        figures = original(turn, batch, roles, step)
        return figures | {"loss": figures["loss"] * torch.nan} if turn == "student" else figures

    broken.objective.loss = poisoned  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the student's loss is nan"):
        broken.run(ignore, Signals())
    assert broken.drawn == trainer.drawn and (case.folder / "state.pt").read_bytes() == kept


def test_the_students_rise_is_not_the_discriminators(case: Case) -> None:
    """All of its own warm-up lies within the first step."""
    case.trainer("adversarial", steps=6, warmup=3, cooldown=0).run(ignore, Signals())
    assert [point["student/lr_scale"] for point in case.curve()][:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert {point["discriminator/lr_scale"] for point in case.curve()} == {1}


def test_seconds_are_those_of_training_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def passes(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("fewstep.distill.trainer.time", SimpleNamespace(monotonic=lambda: now))
    trainer = case.trainer(steps=2)
    trainer.logging = QUIET.model_copy(update={"samples_every": 1})
    trainer.samples = lambda step: passes(100) or {}  # type: ignore[func-returns-value]
    loss = trainer.objective.loss
    trainer.objective.loss = lambda *turn: passes(1) or loss(*turn)  # type: ignore[func-returns-value, method-assign]
    trainer.run(ignore, Signals())
    assert (trainer.seconds, now) == (2, 202)


def test_a_broken_checkpoint_is_refused(case: Case) -> None:
    case.trainer().run(*after(1))
    path = case.folder / "state.pt"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"is broken .* delete it to begin the stage s again"):
        case.trainer()


def test_a_checkpoint_of_another_schedule_is_refused(case: Case) -> None:
    case.trainer().run(*after(1))
    with pytest.raises(ValueError, match=r"does not fit stage s \(it is of a student with another steps, times"):
        case.trainer(student_steps=4)


def test_each_player_has_its_own_rate_and_momentum(case: Case) -> None:
    objective = {"kind": "adversarial", "lr": 3e-4, "betas": [0.5, 0.9]}
    trainer = case.trainer(lr=1e-5, objective=objective)
    trainer.run(*after(1))
    groups = {name: player.optimizer.param_groups[0] for name, player in trainer.players.items()}
    assert groups["student"]["lr"] == 1e-5 and groups["student"]["betas"] == (0.0, 0.99)
    assert groups["discriminator"]["lr"] == 3e-4 and groups["discriminator"]["betas"] == (0.5, 0.9)


def test_the_discriminator_moves_in_its_own_turns_alone(case: Case) -> None:
    trainer = case.trainer("adversarial", steps=1)
    before = {name: p.clone() for name, p in trainer.modules["discriminator"].state_dict().items()}
    trainer.run(ignore, Signals())
    after_run = trainer.modules["discriminator"].state_dict()
    assert any(not torch.equal(before[name], after_run[name]) for name in before)
    (point,) = case.curve()
    assert {"student/anchor", "student/adversarial", "discriminator/accuracy", "discriminator/r1"} <= point.keys()
    assert trainer.drawn == 2 + 1 + 1  # warm-up, the discriminator's turn, the student's
