"""The stopwatch of a training step: every second belongs to one turn and one part, and to the right one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.distill.step_split import StepSplit
from fewstep.teacher.base import Teacher
from tests.distill.untrained_stage import ADVERSARIAL, Ticks, one_stage, untrained

SAMPLES = ADVERSARIAL | {"conditional": False, "judges": "sample", "real": "clips"}


@pytest.mark.parametrize(
    ("objective", "stage"),
    [({"kind": "progressive"}, {}), (ADVERSARIAL, {}), (ADVERSARIAL, {"accumulate": 2}), (SAMPLES, {})],
)
def test_parts_sum_to_the_whole(tiny_teacher: Teacher, objective: dict[str, Any], stage: dict[str, Any]) -> None:
    trainer, clock = untrained(tiny_teacher, one_stage(objective, **stage)), Ticks()
    split = StepSplit(trainer, clock)
    split.run(2)
    assert sum(split.seconds.values()) == clock.now - 1  # all that passed since the first look
    assert trainer.step == 3
    micro = trainer.stage.accumulate
    adversarial = objective["kind"] == "adversarial"
    assert split.turns == {"lesson": 2 * micro, "student": 2} | ({"discriminator": 2} if adversarial else {})


def test_every_part_is_charged_where_it_is_at_work(tiny_teacher: Teacher) -> None:
    split = StepSplit(untrained(tiny_teacher, one_stage(ADVERSARIAL)), Ticks())
    split.run(2)
    busy = {pair for pair, seconds in split.seconds.items() if seconds}
    assert busy == {
        ("lesson", "supervisor"), ("lesson", "student"), ("lesson", "discriminator"), ("lesson", "other"),
        ("discriminator", "discriminator"), ("discriminator", "optimizer"), ("discriminator", "other"),
        ("student", "discriminator"), ("student", "student"), ("student", "optimizer"), ("student", "other"),
    }  # fmt: skip


@pytest.mark.parametrize(("objective", "slow"), [(ADVERSARIAL, "student"), (SAMPLES, "student"), (ADVERSARIAL, "head")])
def test_a_backward_pass_is_charged_to_whose_it_is(tiny_teacher: Teacher, objective: dict[str, Any], slow: str) -> None:
    """A module whose backward takes a thousand seconds, and nothing else does."""
    trainer, clock = untrained(tiny_teacher, one_stage(objective)), Ticks()
    network: Any = trainer.roles.student
    if slow == "head":
        network = trainer.modules["discriminator"].get_submodule("network.heads.0")

    class Slow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            clock.now += 1000
            return gradient

    def slowly(_: object, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (Slow.apply(inputs[0]) if isinstance(inputs[0], Tensor) else inputs[0], *inputs[1:])

    layer = network.proj_out if slow == "student" else network.logit  # near the end of the forward pass
    layer.register_forward_pre_hook(slowly)
    split = StepSplit(trainer, clock)
    split.run(1)
    charged = {pair for pair, seconds in split.seconds.items() if seconds >= 1000}
    assert charged == (
        {("student", "student")}
        if slow == "student"
        else {("discriminator", "discriminator"), ("student", "discriminator")}
    )


def test_splitting_changes_nothing_and_leaves_no_trace(tiny_teacher: Teacher) -> None:
    plain, seen = (untrained(tiny_teacher, one_stage(ADVERSARIAL)) for _ in range(2))
    plain.one_step()
    StepSplit(seen, Ticks()).run(1)
    for name, parameter in plain.roles.parameters.items():
        assert torch.equal(parameter, seen.roles.parameters[name])
    for owner in (tiny_teacher, seen.objective, seen.accelerator, seen.roles):
        assert not {"denoise", "lesson", "loss", "backward", "update_average"} & vars(owner).keys()
    for group in seen.optimizer_groups.values():
        assert not {"gather", "step"} & vars(group).keys()
