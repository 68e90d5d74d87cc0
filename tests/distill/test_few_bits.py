"""Stages whose moments or frozen weights have few bits, or whose average is elsewhere: they end near the others, and
resume bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.distill.trainer import Trainer
from fewstep.student.few_bits import FewBits, base_of
from fewstep.teacher.base import Teacher
from fewstep.teacher.interrupts import Signals
from fewstep.teacher.load_teacher import load_teacher
from tests.distill.conftest import rollouts
from tests.distill.one_stage import Case, after, ignore, weights


def adversarial(width: int) -> dict[str, Any]:
    discriminator = {"backbone": "lora", "width": width}
    return {"objective": {"kind": "adversarial", "warmup": 1, "discriminator": discriminator}}


OBJECTIVES: dict[str, dict[str, Any]] = {"regression": {}, "adversarial": adversarial(8)}
HELD = [{"optimizer": "adamw4bit"}, {"average": "cpu"}]
FURTHER_HELD = [{"optimizer": "adamw8bit"}, {"optimizer": "adamw_fused"}, {"average": "none"}]


@contextmanager
def rounded(teacher: Teacher, base: FewBits | None) -> Iterator[None]:
    if base is not None:
        pytest.importorskip("bitsandbytes" if base == "nf4" else "torchao", reason="its extra is not installed")
    with base_of(teacher, base):
        yield


def case_in(folder: Path, teacher: Teacher, data: Path) -> Case:
    folder.mkdir()
    return Case(teacher, data, folder)


def run(trainer: Trainer, stop: int = 0) -> None:
    trainer.run(*(after(stop) if stop else (ignore, Signals())))


def change(trainer: Trainer, teacher: Teacher) -> Tensor:
    """What the averaged student says otherwise than its teacher."""
    z = teacher.noise([0, 1], teacher.latent_shape(9, 16, 16))
    arguments = teacher.conditions(["a red ring", "a cross"])
    with torch.no_grad(), trainer.roles.averaged():
        own = teacher.denoise(z, 0.8, arguments, network=trainer.roles.student)
        return own - teacher.denoise(z, 0.8, arguments)


APART = 0.3  # of what a student says otherwise than its teacher: Adam's first steps make much of small differences


@pytest.mark.parametrize(
    ("base", "objective"),
    [
        ("int8", "regression"),
        pytest.param("int8", "adversarial", marks=pytest.mark.slow),
        pytest.param("fp8", "regression", marks=pytest.mark.slow),
    ],
)
def test_adapters_on_eight_bits_learn_nearly_the_same(
    tiny_teacher: Teacher, tiny_dataset: Path, tmp_path: Path, base: FewBits, objective: str
) -> None:
    assert 0 < apart(tiny_teacher, tiny_dataset, tmp_path, base, objective) < APART


@pytest.mark.parametrize("objective", ["regression", pytest.param("adversarial", marks=pytest.mark.slow)])
def test_adapters_on_four_bits_learn_nearly_the_same(tiny_wide_folder: Path, tmp_path: Path, objective: str) -> None:
    teacher = load_teacher(tiny_wide_folder, device="cpu")
    assert 0 < apart(teacher, rollouts(teacher, tmp_path, 16), tmp_path, "nf4", objective, lr=1e-3) < APART


def apart(teacher: Teacher, data: Path, folder: Path, base: FewBits, objective: str, lr: float = 1e-2) -> float:
    """Of what a student learns on exact weights, the share that it learns otherwise on rounded ones."""
    changes = []
    for kind in (None, base):
        with rounded(teacher, kind):
            case = case_in(folder / str(kind), teacher, data)
            trainer = case.trainer(train="lora", lr=lr, steps=8, **OBJECTIVES[objective])
            run(trainer)
            changes.append(change(trainer, teacher))
    exact, other = changes
    return float((other - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("base", "objective"), [("int8", "adversarial"), pytest.param("fp8", "regression", marks=pytest.mark.slow)]
)
def test_a_stage_on_eight_bits_resumes_bit_for_bit(
    tiny_teacher: Teacher, tiny_dataset: Path, tmp_path: Path, base: FewBits, objective: str
) -> None:
    ends = []
    with rounded(tiny_teacher, base):
        for name, stops in (("whole", [0]), ("stopped", [1, 0])):
            case = case_in(tmp_path / name, tiny_teacher, tiny_dataset)
            for stop in stops:
                trainer = case.trainer(train="lora", steps=3, batch=2, **OBJECTIVES[objective])
                run(trainer, stop)
            ends.append(weights(trainer))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    "held",
    [*HELD, *(pytest.param(held, marks=pytest.mark.slow) for held in FURTHER_HELD)],
    ids=lambda held: " ".join(held.values()),
)
def test_every_way_to_hold_a_stage_resumes_bit_for_bit(
    tiny_teacher: Teacher, tiny_dataset: Path, tmp_path: Path, held: dict[str, Any]
) -> None:
    few_bits = "bit" in held.get("optimizer", "")
    if few_bits:
        pytest.importorskip("torchao", reason="the extra fewstep[quant] is not installed")
    objective = adversarial(64 if few_bits else 8)  # wide heads are large enough to have moments of few bits
    ends = []
    for name, stops in (("whole", [0]), ("stopped", [1, 0])):
        case = case_in(tmp_path / name, tiny_teacher, tiny_dataset)
        for stop in stops:
            trainer = case.trainer(steps=3, batch=2, **objective, **held)
            run(trainer, stop)
        ends.append(weights(trainer) | dict(trainer.modules["discriminator"].state_dict()))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    few = [
        s
        for p in trainer.optimizer_groups.values()
        for s in p.optimizer.state.values()
        if hasattr(s["exp_avg"], "codes")
    ]
    assert bool(few) == few_bits


def test_where_the_average_is_kept_changes_nothing(tiny_teacher: Teacher, tiny_dataset: Path, tmp_path: Path) -> None:
    """Nor when a run goes on with it elsewhere."""
    ends = []
    for name, kept in (("device", ["device"]), ("cpu", ["cpu"]), ("both", ["device", "cpu"])):
        case = case_in(tmp_path / name, tiny_teacher, tiny_dataset)
        for number, where in enumerate(kept):
            trainer = case.trainer(average=where)
            run(trainer, stop=2 if number + 1 < len(kept) else 0)
        ends.append(weights(trainer))
    for other in ends[1:]:
        assert all(torch.equal(ends[0][name], other[name]) for name in other)


def test_a_checkpoint_without_an_average_holds_none(tiny_teacher: Teacher, tiny_dataset: Path, tmp_path: Path) -> None:
    case = case_in(tmp_path / "run", tiny_teacher, tiny_dataset)
    run(case.trainer(average="none", ema=0.0), stop=2)
    state = torch.load(case.folder / "state.pt", weights_only=True)
    assert state["average"] == {} and state["student"]
