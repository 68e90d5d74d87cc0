"""Fresh heads see what there is, whatever a stage's own discriminator has come to."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from fewstep.distill import fresh_heads
from fewstep.distill.batches import Batches
from fewstep.distill.calls import Calls
from fewstep.distill.estimate import part_calls
from fewstep.distill.fresh_heads import FreshHeads
from fewstep.distill.objectives import adversarial_calls
from fewstep.distill.objectives.adversarial_settings import Adversarial
from fewstep.distill.objectives.base import StillRoles
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.optimizer_group import OptimizerGroup
from fewstep.distill.settings import Stage
from fewstep.teacher.base import Teacher


def make(teacher: Teacher, data: Path, student_steps: int, **settings: Any) -> FreshHeads:
    batches = Batches(data, teacher, seed=0, stage=0)
    chosen = {"lr": 1e-2, "r1": 0, "r2": 0, "probe": 30, "discriminator": {"width": 8}, **settings}
    return FreshHeads(
        Adversarial.model_validate(chosen), Supervision(4, student_steps), batches, 8, batches.batch(0, 8, 0.0),
        Accelerator(cpu=True),
    )  # fmt: skip


def roles_of(teacher: Teacher, scale: float) -> StillRoles:
    network = teacher.network_at(1.0)
    student = deepcopy(network)
    for parameter in student.parameters():
        parameter.data *= scale
    return StillRoles(teacher, student, network, network)


def test_a_student_that_does_as_its_supervisor_is_at_chance_and_a_worse_one_is_not(
    tiny_teacher: Teacher, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_heads, "HELD_OUT", 16)  # batches
    same = make(tiny_teacher, tiny_dataset, 4, probe=3).accuracy(roles_of(tiny_teacher, 1.0)).accuracy
    worse = make(tiny_teacher, tiny_dataset, 4).accuracy(roles_of(tiny_teacher, 0.8)).accuracy
    assert same < 0.6  # equal logits are no pair that is ranked right
    assert worse > 0.9


def test_each_transition_has_a_figure_and_their_mean_over_pairs_is_that_of_all(
    tiny_teacher: Teacher, tiny_dataset: Path
) -> None:
    held_out = make(tiny_teacher, tiny_dataset, 4, probe=2).accuracy(roles_of(tiny_teacher, 0.8))
    assert list(held_out.accuracies) == tiny_teacher.schedule.grid(4)[1:].tolist()
    low, high = min(held_out.accuracies.values()), max(held_out.accuracies.values())
    assert low < held_out.accuracy < high  # of 256 pairs on four transitions
    of_samples = make(tiny_teacher, tiny_dataset, 2, conditional=False, judges="sample", probe=1)
    assert list(of_samples.accuracy(roles_of(tiny_teacher, 0.8)).accuracies) == [0.0]  # whole clips are data


def test_the_figure_follows_from_the_student_alone(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    """The same heads, clips and noise each time, and nothing outside is changed."""
    heads = make(tiny_teacher, tiny_dataset, 2, conditional=False, real="clips", judges="sample", probe=3)
    before, state = deepcopy(tiny_teacher.network_at(1.0).state_dict()), torch.get_rng_state()
    first = heads.accuracy(roles_of(tiny_teacher, 0.9))
    assert torch.equal(torch.get_rng_state(), state)
    assert heads.accuracy(roles_of(tiny_teacher, 0.9)) == first and first.pairs == 32 * 8
    after = tiny_teacher.network_at(1.0).state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_a_step_and_the_pairs_are_of_all_micro_batches(
    tiny_teacher: Teacher, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_heads, "HELD_OUT", 2)
    whole = make(tiny_teacher, tiny_dataset, 2, probe=3)
    parts, steps, step = replace(whole, batch=2, micro_batches=4), list[float](), OptimizerGroup.step

    def noted(group: OptimizerGroup, scale: float) -> None:
        steps.append(scale)
        step(group, scale)

    monkeypatch.setattr(OptimizerGroup, "step", noted)
    roles = roles_of(tiny_teacher, 0.9)
    assert parts.accuracy(roles).pairs == whole.accuracy(roles).pairs == 2 * 8
    assert len(steps) == 2 * 3


@pytest.mark.parametrize("settings", [{}, {"mismatched": 1.0, "r1": 0.5}])
def test_what_they_read_is_what_a_dry_run_counts(
    tiny_teacher: Teacher, tiny_dataset: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stage whose own discriminator trains its backbone."""
    for module in (fresh_heads, adversarial_calls):
        monkeypatch.setattr(module, "HELD_OUT", 2)
    discriminator = {"width": 8, "backbone": "trained"}
    heads = make(tiny_teacher, tiny_dataset, 2, probe=3, penalty_every=2, discriminator=discriminator, **settings)
    read = dict.fromkeys(("student", "supervisor", "discriminator"), 0)
    cast = {role: deepcopy(tiny_teacher.network_at(1.0)) for role in read}
    for role, network in cast.items():

        def count(_: Any, args: Any, kwargs: dict[str, Any], role: str = role) -> None:
            read[role] += len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

        network.register_forward_pre_hook(count, with_kwargs=True)
    for _ in range(2):  # before and after the stage
        heads.accuracy(StillRoles(tiny_teacher, cast["student"], cast["supervisor"], cast["discriminator"]))
    stage = Stage(teacher_steps=4, student_steps=2, steps=1, batch=8, objective=heads.settings)
    counted = adversarial_calls.probe_calls(heads.settings, stage, part_calls(stage, tiny_teacher.schedule))
    made = Calls.of(
        "discriminator", 2 * 8
    )  # heads see a batch's features as they are made: a discriminator's are not counted
    assert (counted + made).forward == read and not counted.backward


@pytest.mark.parametrize("backbone", ["trained", pytest.param("lora", marks=pytest.mark.slow)])
def test_heads_read_a_frozen_backbone_whatever_the_stage_trains(
    tiny_teacher: Teacher, tiny_dataset: Path, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_heads, "HELD_OUT", 2)
    heads = make(tiny_teacher, tiny_dataset, 2, probe=1, discriminator={"width": 8, "backbone": backbone})
    frozen = make(tiny_teacher, tiny_dataset, 2, probe=1)
    roles = roles_of(tiny_teacher, 0.9)
    assert heads.accuracy(roles) == frozen.accuracy(roles)
