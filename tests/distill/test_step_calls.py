"""Calls of a training step: as many as the estimate says, and each can be made again on its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fewstep.distill.objectives.adversarial import AdversarialObjective
from fewstep.distill.step_calls import CallKind, StepCalls, clips_of
from fewstep.distill.step_time import expected_clips
from fewstep.distill.trainer import Trainer
from fewstep.teacher.base import Teacher
from tests.distill.untrained_stage import ADVERSARIAL, Ticks, one_stage, untrained

RELAXED = ADVERSARIAL | {"conditional": False}
ARMS: list[tuple[dict[str, Any], dict[str, Any]]] = [  # objective, stage
    ({"kind": "progressive"}, {}),
    ({"kind": "progressive"}, {"teacher": "base", "guidance": 3.0, "accumulate": 2}),
    (ADVERSARIAL, {}),
    (RELAXED, {"accumulate": 2}),
    (RELAXED | {"real": "clips", "loss": "hinge", "r1": 0, "r2": 0}, {}),
    (RELAXED | {"judges": "sample", "real": "clips", "discriminator_steps": 2, "mismatched": 1.0}, {}),
    (RELAXED | {"discriminator": {"width": 8, "backbone": "trained"}}, {}),
    (ADVERSARIAL | {"discriminator": {"width": 8, "backbone": "lora", "lora_rank": 2}}, {}),
]


def counted(trainer: Trainer, num_steps: int) -> StepCalls:
    calls = StepCalls(trainer, Ticks())
    with calls.counting():
        for _ in range(num_steps):
            trainer.one_step()
    return calls


@pytest.mark.parametrize(("objective", "stage"), ARMS)
def test_steps_make_the_calls_that_the_estimate_foresees(
    tiny_teacher: Teacher, objective: dict[str, Any], stage: dict[str, Any]
) -> None:
    trainer = untrained(tiny_teacher, one_stage(objective, **stage))
    num_steps = trainer.stage.objective.period
    calls = counted(trainer, num_steps)
    actual = clips_of(calls.counts, gradient_checkpointing=False)
    expected = expected_clips(trainer.stage, tiny_teacher.schedule, gradient_checkpointing=False)
    facts = {f"{role}_forward": count for role, count in actual.forward.items()}
    facts |= {f"{role}_backward": count for role, count in actual.backward.items()}
    assert {name: count * num_steps for name, count in expected.items()} == facts
    turns = sum(len(turns) for turns in trainer.objective.rounds(1))
    assert sum(n for kind, n in calls.counts.items() if kind.part == "adam") == num_steps * turns


def test_forwards_are_told_from_backwards(tiny_teacher: Teacher) -> None:
    counts = counted(untrained(tiny_teacher, one_stage(ADVERSARIAL)), 2).counts
    assert counts[CallKind("supervisor", "", 4, "none")] == 4
    assert counts[CallKind("student", "", 4, "weights")] == 2
    # z_t, and real without gradients in the student step; its own endpoint; both sides and once their penalty
    assert counts[CallKind("discriminator", "backbone", 4, "none")] == 4
    assert counts[CallKind("discriminator", "backbone", 4, "input")] == 2
    assert counts[CallKind("discriminator", "backbone", 8, "none")] == 3
    for which in ("head 0", "head 1", "head 2"):
        kinds = [CallKind("discriminator", which, 4, backward, whole=False) for backward in ("none", "input")]
        assert [counts[kind] for kind in kinds] == [2, 2]
        assert counts[CallKind("discriminator", which, 8, "weights", whole=False)] == 3
    for group in ("student", "discriminator"):
        assert counts[CallKind("adam", group, 0, "none", whole=False)] == 2


@pytest.mark.parametrize("objective", [ADVERSARIAL, RELAXED | {"discriminator": {"width": 8, "backbone": "trained"}}])
def test_calls_are_made_again_and_leave_no_trace(tiny_teacher: Teacher, objective: dict[str, Any]) -> None:
    trainer = untrained(tiny_teacher, one_stage(objective))
    calls = counted(trainer, 2)
    assert isinstance(trainer.objective, AdversarialObjective)
    required = [p.requires_grad for p in trainer.objective.discriminator.parameters()]
    for kind in calls.counts:
        assert calls.seconds(kind) == 1  # between two looks at the clock
    assert required == [p.requires_grad for p in trainer.objective.discriminator.parameters()]
    for group in trainer.optimizer_groups.values():
        assert all(p.grad is None for p in group.parameters)
    assert all(p.grad is None for p in tiny_teacher.network_at(1.0).parameters())
    assert "denoise" not in vars(tiny_teacher) and "read" not in vars(trainer.objective.discriminator)
    trainer.one_step()


def test_counting_changes_nothing(tiny_teacher: Teacher) -> None:
    plain, seen = (untrained(tiny_teacher, one_stage(ADVERSARIAL)) for _ in range(2))
    plain.one_step(), plain.one_step()
    counted(seen, 2)
    for name, parameter in plain.roles.parameters.items():
        assert torch.equal(parameter, seen.roles.parameters[name])
