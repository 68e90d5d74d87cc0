"""Calls are counted as the objectives make them; memory as the roles hold it."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fewstep.distill.calls import Calls
from fewstep.distill.discriminator import Discriminator
from fewstep.distill.draws import Draws
from fewstep.distill.estimate import RoleMemory, rollout_calls, stage_calls, stage_memory, total_calls
from fewstep.distill.objectives.adversarial import AdversarialObjective
from fewstep.distill.objectives.adversarial_settings import Adversarial
from fewstep.distill.objectives.base import Batch
from fewstep.distill.objectives.objective_settings import HeldParameters
from fewstep.distill.objectives.progressive import Progressive
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.recipe import Recipe, RolloutData, Stage
from fewstep.teacher.base import Teacher
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.schedule import NoiseSchedule

DATA = RolloutData(kind="rollouts", prompts=Path("prompts.txt"), count=2, steps=32, guidance=5.0)
SCHEDULE = NoiseSchedule("flow", "flow", shift=3.0)
G = 2**28  # so many float32 parameters are a GiB


def progressive(**changes: Any) -> Stage:
    settings = {"teacher_steps": 32, "student_steps": 8, "steps": 10, "batch": 4, "guidance": 5.0}
    return Stage(**{**settings, "objective": Progressive(kind="progressive"), **changes})


def adversarial(objective: dict[str, Any] | None = None, **changes: Any) -> Stage:
    settings = {"kind": "adversarial", "warmup": 3, "penalty_every": 4, **(objective or {})}
    changed = {"teacher_steps": 8, "student_steps": 4, "guidance": 1.0, **changes}
    return progressive(objective=Adversarial.model_validate(settings), **changed)


def relay(*stages: Stage, train: str = "full", **changes: Any) -> Recipe:
    return Recipe.model_validate({"data": DATA, "stages": stages, "student": {"train": train}, **changes})


def roles(shares: list[RoleMemory]) -> dict[str, float]:
    return {share.role: share.total for share in shares}


def test_rollouts_take_every_step_of_every_sample_twice_when_guided() -> None:
    assert rollout_calls(DATA, 100, SCHEDULE) == 100 * 2 * 32 * 2
    assert rollout_calls(DATA.model_copy(update={"guidance": Guidance()}), 100, SCHEDULE) == 100 * 2 * 32


def test_regression_calls_the_supervisor_once_per_substep_and_branch() -> None:
    expected = Calls({"supervisor": 10 * 4 * 4 * 2, "student": 10 * 4}, {"student": 10 * 4})
    assert stage_calls(progressive(), SCHEDULE) == expected
    assert stage_calls(progressive(guidance=1.0), SCHEDULE).forward["supervisor"] == 10 * 4 * 4
    assert stage_calls(progressive(accumulate=2), SCHEDULE) == stage_calls(progressive(), SCHEDULE)
    assert stage_calls(progressive(), SCHEDULE, gradient_checkpointing=True).forward["student"] == 2 * 10 * 4


def test_guidance_at_some_noise_levels_doubles_the_steps_there() -> None:
    # with shift 3, 5 of 8 steps start above level 0.3 and up to 0.93: .9, .833, .75, .643 and .5
    limited = Guidance(5.0, 0.3, 0.93)
    assert rollout_calls(DATA.model_copy(update={"steps": 8, "guidance": limited}), 100, SCHEDULE) == 100 * 2 * 13
    stage = progressive(teacher_steps=8, student_steps=4, guidance=limited)
    assert (
        stage_calls(stage, SCHEDULE).forward["supervisor"] == 10 * 13
    )  # 4 clips, each a quarter of the way on average


def test_adversarial_calls_are_those_of_both_players_turns() -> None:
    rounds, turns = 3 + 10, 3 + 10  # warm-up, and one per step
    counting = 3 + 3  # turns with a penalty: the warm-up, and steps 0, 4 and 8
    relaxed = stage_calls(adversarial({"conditional": False}), SCHEDULE)
    assert relaxed == Calls(
        {"supervisor": rounds * 4 * 2, "student": rounds * 4, "discriminator": (turns + counting + 10) * 2 * 4},
        {"student": 10 * 4, "discriminator": 10 * 4},
    )
    conditional = stage_calls(adversarial(), SCHEDULE)  # reads z_t once for all turns of a round
    assert conditional == relaxed + Calls({"discriminator": rounds * 4})
    clips = stage_calls(adversarial({"conditional": False, "real": "clips", "anchor": {"weight": 0}}), SCHEDULE)
    assert clips == replace(relaxed, forward={**relaxed.forward, "supervisor": 0})


ARMS: list[dict[str, Any]] = [
    {},
    {"conditional": False},
    {"conditional": False, "real": "clips_at_data", "judges": "clip", "discriminator_steps": 2, "mismatched": 1.0},
    {"conditional": False, "real": "clips", "loss": "hinge", "anchor": {"weight": 0}},
    {"conditional": False, "real": "clips", "judges": "sample"},
    {"conditional": False, "real": "clips", "judges": "sample", "through": "last", "anchor": {"weight": 0}},
    {"conditional": False, "real": "supervisor", "judges": "sample", "r1": 0, "r2": 0},
    {"discriminator": {"width": 8, "backbone": "trained"}},
]


@pytest.mark.parametrize(
    ("arm", "accumulate"),
    [
        *((arm, 1) for arm in ARMS),
        *(pytest.param(arm, 2, marks=() if arm.get("through") else pytest.mark.slow) for arm in ARMS),
    ],
)
def test_the_calls_are_those_that_the_objective_makes(
    tiny_teacher: Teacher, arm: dict[str, Any], accumulate: int
) -> None:
    stage = adversarial({"discriminator": {"width": 8}} | arm, steps=5, batch=4, accumulate=accumulate)
    assert isinstance(stage.objective, Adversarial)
    cast = {name: deepcopy(tiny_teacher.network_at(1.0)) for name in ("student", "supervisor", "backbone")}
    roles = SimpleNamespace(teacher=tiny_teacher, **cast)
    size = stage.batch // stage.accumulate
    x0, conditions = (
        torch.zeros(size, 16, 2, 2, 4),
        tiny_teacher.conditions(["a red ring", "a blue cross"] * (size // 2)),
    )
    chosen = stage.objective
    judge = Discriminator(tiny_teacher, cast["backbone"], chosen.discriminator, x0, conditions, chosen.conditional)
    (cast["backbone"],) = judge._backbone
    objective = AdversarialObjective(stage.objective, Supervision(stage.teacher_steps, stage.student_steps), judge)

    seen = Counter[str]()
    for name, network in cast.items():

        def count(_: Any, args: Any, kwargs: dict[str, Any], name: str = name) -> None:
            seen[name] += len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

        network.register_forward_pre_hook(count, with_kwargs=True)
    for step in range(stage.steps):
        for turns in objective.rounds(step):
            for _ in range(stage.accumulate):
                batch = Batch(x0, conditions, Draws.seeded(step, len(x0)), 0.0)
                lesson = objective.lesson(turns, batch, roles, keep_graph=stage.accumulate == 1)
                for turn in turns:
                    objective.loss(turn, lesson, roles, step)
    calls = stage_calls(stage, tiny_teacher.schedule).forward
    expected = (calls.get("supervisor", 0), calls["student"], calls["discriminator"])
    if chosen.real == "clips_at_data" and seen["supervisor"] < expected[0]:  # all clips of a draw may end in data
        assert seen["supervisor"] >= expected[0] / 2
        expected = (seen["supervisor"], *expected[1:])
    assert (seen["supervisor"], seen["student"], seen["backbone"]) == expected


def test_a_trained_backbone_is_gone_through_backwards_as_well() -> None:
    settings = {"conditional": False, "r1": 0, "r2": 0, "discriminator": {"backbone": "trained"}}
    calls = stage_calls(adversarial(settings), SCHEDULE)
    assert calls.forward["discriminator"] == (13 + 10) * 2 * 4
    assert calls.backward["discriminator"] == 13 * 2 * 4 + 10 * 4


def test_the_total_is_the_sum_of_stages() -> None:
    recipe = relay(progressive(), adversarial(), gradient_checkpointing=True)
    first, second = (stage_calls(stage, SCHEDULE, True) for stage in recipe.stages)
    assert total_calls(recipe, SCHEDULE) == first + second


def test_full_training_holds_five_copies_of_the_student_beside_the_teacher() -> None:
    recipe = relay(progressive(), adversarial())
    held: list[dict[str, HeldParameters]] = [{}, {"discriminator": HeldParameters(trained=G // 4)}]
    first, second = (stage_memory(recipe, i, G, held=held[i]) for i in (0, 1))
    assert roles(first) == {"teacher": 1, "student": 5}
    assert roles(second) == {"teacher": 1, "student": 5, "supervisor": 1, "discriminator": 1}
    student = first[1]
    assert (student.weights, student.gradients, student.moments, student.average) == (1, 1, 2, 1)


def test_bfloat16_halves_what_is_frozen() -> None:
    recipe = relay(progressive(), adversarial())
    held = {"discriminator": HeldParameters(trained=G, frozen=G // 2)}
    gib = roles(stage_memory(recipe, 1, G, held=held, frozen="bfloat16"))
    assert gib == {"teacher": 0.5, "student": 5, "supervisor": 0.5, "discriminator": 4.5}


def test_few_bits_and_an_average_elsewhere_take_less() -> None:
    recipe = relay(progressive(), adversarial(), optimizer="adamw8bit", average="cpu")
    recipe = recipe.model_copy(update={"student": recipe.student.model_copy(update={"base": "int8"})})
    teacher, student = stage_memory(recipe, 0, G, frozen="bfloat16", num_few_bits=G // 2)
    assert teacher.weights == 0.5 * 0.5 + 0.5 * 0.25
    assert student.moments == pytest.approx(0.5 * (1 + 4 / 64)) and student.average == 0
    none = relay(progressive(ema=0.0), adversarial())
    assert [stage_memory(none, index, G)[1].average for index in (0, 1)] == [0, 1]


def test_adapters_share_one_copy() -> None:
    recipe = relay(progressive(), adversarial(), train="lora")
    gib = roles(stage_memory(recipe, 1, G, G // 8, frozen="bfloat16"))
    assert gib == {"teacher": 0.5, "student": 5 / 8, "supervisor": 1 / 8}


@pytest.mark.parametrize(
    ("trains", "expected"),
    [
        (("full", "lora"), {"teacher": 1, "student's base": 1, "student": 5 / 8}),  # which supervises, too
        (("lora", "full"), {"teacher": 1, "student": 5, "supervisor": 1 / 8}),
    ],
)
def test_a_stage_may_train_otherwise_than_the_one_before(trains: tuple[str, str], expected: dict[str, float]) -> None:
    stages = (
        progressive(train=trains[0]),
        progressive(teacher_steps=8, student_steps=4, guidance=1.0, train=trains[1]),
    )
    assert roles(stage_memory(relay(*stages), 1, G, G // 8)) == expected
