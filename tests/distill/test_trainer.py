"""The trainer: an interrupted stage equals an uninterrupted one bit for bit, and nothing done is lost."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.student.denoiser import Train
from fewstep.teacher.base import Teacher
from fewstep.teacher.interrupts import Signals
from tests.distill.one_stage import QUIET, Case, after, ignore, weights

SMALL = {"width": 8}  # heads of the usual width take most of a tiny stage's time
RELAXED = {"kind": "adversarial", "warmup": 2, "conditional": False, "discriminator": {"backbone": "lora", **SMALL}}
SAMPLES = {
    "kind": "adversarial", "warmup": 2, "conditional": False, "real": "clips", "judges": "sample", "through": "drawn",
    "balance": {"low": 0.55, "high": 0.8, "most": 2}, "mismatched": 0.5, "discriminator": SMALL,
}  # fmt: skip
TRAINED = {"kind": "adversarial", "warmup": 2, "discriminator": {"backbone": "trained", **SMALL}}


@pytest.mark.parametrize(
    ("kind", "train", "stage"),
    [
        ("progressive", "full", {}),
        pytest.param("adversarial", "full", {}, marks=pytest.mark.slow),
        pytest.param("adversarial", "lora", {}, marks=pytest.mark.slow),
        ("adversarial", "lora", {"objective": RELAXED, "accumulate": 2}),
        pytest.param("adversarial", "full", {"objective": TRAINED}, marks=pytest.mark.slow),
        ("adversarial", "full", {"objective": SAMPLES}),
    ],
)
def test_a_resumed_stage_equals_an_uninterrupted_one_bit_for_bit(
    case: Case, tmp_path: Path, kind: str, train: Train, stage: dict[str, Any]
) -> None:
    stage = {"steps": 4, "batch": 2, **stage}
    whole = case.trainer(kind, train, **stage)
    whole.run(ignore, Signals())
    expected, curve = weights(whole), case.curve()

    case.folder = tmp_path / "again"
    case.folder.mkdir()
    case.trainer(kind, train, **stage).run(*after(2))
    resumed = case.trainer(kind, train, **stage)
    assert resumed.step == 2
    resumed.run(ignore, Signals())
    actual = weights(resumed)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert case.curve() == curve and len(curve) == 4


def test_points_beyond_the_checkpoint_are_taken_back(case: Case) -> None:
    trainer = case.trainer()
    trainer.run(*after(3))
    path = case.folder / "curves" / "s.jsonl"
    path.write_text(path.read_text() + '{"step": 4, "student/loss": 99}\n{"step": 5, "stu')
    case.trainer().run(ignore, Signals())
    steps = [point["step"] for point in case.curve()]
    assert steps == [1, 2, 3, 4, 5, 6] and case.curve()[3]["student/loss"] != 99


def test_micro_batches_give_the_gradient_of_the_whole(case: Case) -> None:
    """And its clips and noise."""
    whole, halves = (case.trainer(batch=8, steps=5, accumulate=count) for count in (1, 2))
    for trainer in (whole, halves):
        trainer.run(ignore, Signals())
        (case.folder / "state.pt").unlink()
    first, second = weights(whole), weights(halves)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


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

    def poisoned(turn: str, lesson: Any, roles: Any, step: int) -> dict[str, Tensor]:
        figures = original(turn, lesson, roles, step)
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


@pytest.fixture(scope="module")
def begun(tiny_teacher: Teacher, tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a stage that was stopped after its first step; not to be changed."""
    folder: Path = tmp_path_factory.mktemp("begun")
    Case(tiny_teacher, tiny_dataset, folder).trainer().run(*after(1))
    return folder


@pytest.fixture
def stopped(case: Case, begun: Path) -> Case:
    """A stage that was stopped there, whose files may be changed."""
    shutil.copytree(begun, case.folder, dirs_exist_ok=True)
    return case


def test_a_broken_checkpoint_is_refused(stopped: Case) -> None:
    path = stopped.folder / "state.pt"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"is broken .* delete it to begin the stage s again"):
        stopped.trainer()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", None), ("step", -5), ("step", math.nan), ("step", 7), ("step", True), ("drawn", -1), ("rate", 0.0),
        ("seconds", math.nan), ("rate", "1"), ("student", {}), ("average", None), ("optimizers", {"student": {}}),
        ("contract", []),
    ],
)  # fmt: skip
def test_a_checkpoint_of_odd_values_is_refused(stopped: Case, name: str, value: object) -> None:
    path = stopped.folder / "state.pt"
    torch.save(torch.load(path, weights_only=True) | {name: value}, path)
    with pytest.raises(ValueError, match=r"(is broken|does not fit) .*state\.pt|delete it to begin the stage s again"):
        stopped.trainer()


@pytest.mark.parametrize("part", ["student", "average"])
def test_a_checkpoint_of_weights_that_are_not_finite_is_refused(stopped: Case, part: str) -> None:
    path = stopped.folder / "state.pt"
    state = torch.load(path, weights_only=True)
    next(iter(state[part].values())).view(-1)[0] = math.nan
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"holds numbers that are not finite.*: delete its state\.pt"):
        stopped.trainer()


def test_what_optimizers_remember_must_fit(stopped: Case) -> None:
    path = stopped.folder / "state.pt"
    state = torch.load(path, weights_only=True)
    state["optimizers"]["student"]["state"][0]["step"] = torch.tensor(-1.0)
    torch.save(state, path)
    with pytest.raises(ValueError, match="its optimizer has made -1 steps"):
        stopped.trainer()
    state["optimizers"]["student"]["state"][0] |= {"exp_avg": "text", "step": torch.tensor(1.0)}
    state["optimizers"]["student"]["param_groups"][0]["betas"] = (5, 5)
    torch.save(state, path)
    with pytest.raises(ValueError, match="its optimizer remembers as exp_avg does not fit"):
        stopped.trainer()


def test_a_checkpoint_of_another_schedule_is_refused(stopped: Case) -> None:
    with pytest.raises(ValueError, match=r"does not fit stage s \(it is of a student with another steps, times"):
        stopped.trainer(student_steps=4)


def test_each_player_has_its_own_rate_and_momentum(case: Case) -> None:
    objective = {"kind": "adversarial", "warmup": 0, "lr": 3e-4, "betas": [0.5, 0.9], "discriminator": SMALL}
    trainer = case.trainer(lr=1e-5, objective=objective)
    trainer.run(*after(1))
    groups = {name: player.optimizer.param_groups[0] for name, player in trainer.optimizer_groups.items()}
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
    assert trainer.drawn == 2 + 1  # warm-up, and one lesson for the discriminator's turn and the student's
