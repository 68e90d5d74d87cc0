"""Adversarial distillation of the tiny teacher: who learns when, and what the discriminator is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from fewstep.distill.discriminator import Discriminator
from fewstep.distill.objectives.adversarial import DISCRIMINATOR, AdversarialObjective
from fewstep.distill.objectives.adversarial_settings import Adversarial
from fewstep.distill.objectives.base import STUDENT, Batch, NetworkRoles, Objective
from fewstep.distill.objectives.losses import AdversarialLoss
from fewstep.distill.objectives.regression import regress
from fewstep.distill.objectives.supervision import Supervision
from fewstep.teacher.conditions import Conditions
from tests.distill.objectives.conftest import SHAPE, take
from tests.distill.objectives.ruler import RELAXED, ruled

MakeBatch = Callable[..., Batch]


def make(
    roles: NetworkRoles, conditions: Conditions, supervision: Supervision, **settings: Any
) -> AdversarialObjective:
    torch.manual_seed(0)
    chosen = Adversarial.model_validate({"discriminator": {"width": 8}} | settings)
    clips = roles.teacher.noise([10, 11], SHAPE)
    judge = Discriminator(roles.teacher, roles.backbone, chosen.discriminator, clips, conditions, chosen.conditional)
    return AdversarialObjective(chosen, supervision, judge)


def moved(module: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in module.parameters())


def untouched(module: nn.Module) -> bool:
    return all(p.grad is None for p in module.parameters())


def test_the_warm_up_comes_within_the_students_first_step() -> None:
    objective: Objective[Any] = ruled(Supervision(4, 2), warmup=3, discriminator_steps=2)[0]
    assert list(objective.rounds(0)) == [(DISCRIMINATOR,)] * 3 + [(DISCRIMINATOR, DISCRIMINATOR, STUDENT)]
    assert list(objective.rounds(1)) == [(DISCRIMINATOR, DISCRIMINATOR, STUDENT)]
    (trainee,) = objective.trainees().values()
    assert (trainee.lr, trainee.betas) == (2e-4, (0.0, 0.99))


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("backbone", ["frozen", "trained", "lora"])
def test_gradients_reach_only_whose_turn_it_is(
    roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch, backbone: str, conditional: bool
) -> None:
    judge_settings = {"width": 8, "backbone": backbone}
    settings = {"discriminator": judge_settings, "anchor": {"weight": 0.0}, "conditional": conditional}
    objective = make(roles, conditions, Supervision(4, 2), **settings)
    judge = objective.discriminator
    take(objective, DISCRIMINATOR, make_batch(0), roles, 0)["loss"].backward()
    assert moved(judge) and untouched(roles.student)
    assert all(p.grad is not None for p in judge.heads.parameters())
    assert backbone == "frozen" or moved(nn.ModuleList([getattr(judge, "adapters", None) or judge.backbone]))
    judge.zero_grad()
    take(objective, STUDENT, make_batch(1), roles, 0)["loss"].backward()
    assert moved(roles.student) and untouched(judge)  # without an anchor: through the discriminator alone
    assert untouched(roles.supervisor) and untouched(roles.backbone)
    take(objective, DISCRIMINATOR, make_batch(2), roles, 1)["loss"].backward()
    assert moved(judge)  # it learns again


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("loss", get_args(AdversarialLoss))
def test_every_form_gives_figures_for_people(
    roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch, loss: str, conditional: bool
) -> None:
    objective = make(roles, conditions, Supervision(4, 2), loss=loss, conditional=conditional)
    judged = take(objective, DISCRIMINATOR, make_batch(0), roles, 0)
    names = {"accuracy", "logits_real", "logits_fake"}
    by_transition = {f"{name}_to_{end}" for name in names for end in ("0.833", "0")}
    assert {name for name in judged if "_to_" in name} <= by_transition
    assert set(judged) - by_transition == names | {"loss", "adversarial", "r1", "r2"}
    assert 0 <= float(judged["accuracy"]) <= 1
    learnt = take(objective, STUDENT, make_batch(0), roles, 0)
    assert set(learnt) == {"loss", "adversarial", "anchor"}
    for figures in (judged, learnt):
        assert all(figure.isfinite() and figure.ndim == 0 for figure in figures.values())
        assert all(figure.requires_grad == (name == "loss") for name, figure in figures.items())
    torch.testing.assert_close(learnt["loss"].detach(), 0.1 * learnt["adversarial"] + learnt["anchor"])


def test_only_a_lesson_of_a_single_micro_batch_holds_what_is_large(
    roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch
) -> None:
    objective, turns = make(roles, conditions, Supervision(4, 2)), (DISCRIMINATOR, STUDENT)
    one, of_many = (objective.lesson(turns, make_batch(0), roles, keep_graph=single) for single in (True, False))
    assert one.starts and one.shared and of_many.starts is None and of_many.shared is None
    apart = [objective.loss(STUDENT, lesson, roles, 1)["loss"] for lesson in (one, of_many)]
    torch.testing.assert_close(*apart)


def test_the_anchor_is_the_one_that_is_set(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    supervision, batch = Supervision(4, 2), make_batch(0)
    lesson, schedule = supervision.lesson(batch, roles), roles.teacher.schedule
    x0 = roles.teacher.denoise(lesson.z_t, lesson.t, batch.conditions, network=roles.student)
    huber = regress(schedule, x0, lesson.target(schedule), lesson.t, "huber", 0.02).detach()
    objective, _ = ruled(supervision, anchor={"loss": "huber", "huber_c": 0.02, "weight": 3}, weight=0.5)
    terms = take(objective, STUDENT, make_batch(0), roles, 0)
    torch.testing.assert_close(terms["anchor"], huber)
    torch.testing.assert_close(terms["loss"].detach(), 0.5 * terms["adversarial"] + 3 * huber)


def test_a_student_that_does_as_its_supervisor_cannot_be_told_apart(
    roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch
) -> None:
    """Real and fake are noised alike: else these would differ."""
    objective = make(roles, conditions, Supervision(4, 4), r1=0.0, r2=0.0)
    learnt = take(objective, STUDENT, make_batch(0), roles, 0)
    assert float(learnt["anchor"]) < 1e-9
    for figures in (learnt, take(objective, DISCRIMINATOR, make_batch(0), roles, 0)):
        assert float(figures["adversarial"]) == pytest.approx(math.log(2), abs=1e-5)


def test_the_discriminator_learns_to_tell_a_worse_student(
    roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch
) -> None:
    for parameter in roles.student.parameters():
        parameter.data *= 0.7
    objective = make(roles, conditions, Supervision(4, 2), r1=0.0, r2=0.0)
    optimizer = torch.optim.Adam(objective.discriminator.parameters(), lr=1e-2, betas=(0.0, 0.99))
    for _ in range(20):
        figures = take(objective, DISCRIMINATOR, make_batch(0, copies=2), roles, 1)
        optimizer.zero_grad()
        figures["loss"].backward()
        optimizer.step()
    assert float(figures["accuracy"]) > 0.9
    assert float(figures["adversarial"]) < math.log(2)
    assert float(figures["logits_real"]) > float(figures["logits_fake"])


@pytest.mark.parametrize("conditional", [True, False])
def test_it_is_shown_noised_endpoints_and_where_they_started(
    roles: NetworkRoles, make_batch: MakeBatch, conditional: bool
) -> None:
    noise = {"kind": "levels", "levels": [0.9], "weights": [1]}
    supervision = Supervision(4, 2)
    objective, ruler = ruled(supervision, conditional=conditional, noise=noise, r1=0.0, r2=0.0)
    take(objective, DISCRIMINATOR, make_batch(0), roles, 0)
    ((both, s, _, start),) = ruler.asked
    lesson = supervision.lesson(make_batch(0), roles)  # the same draws
    assert len(both) == 4
    torch.testing.assert_close(s, torch.maximum(lesson.s, torch.tensor(0.9, dtype=torch.float64)))
    real, fake = both.chunk(2)
    # the same noise in both: what is left is the difference of the endpoints, scaled as the clip is
    schedule = roles.teacher.schedule
    x0 = roles.teacher.denoise(lesson.z_t, lesson.t, make_batch(0).conditions, network=roles.student)
    z_hat = schedule.step(lesson.z_t, x0, lesson.t, lesson.s).detach()
    keep = (schedule.alpha(s) / schedule.alpha(lesson.s)).float().view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(real - fake, keep * (lesson.z_s - z_hat), atol=1e-4, rtol=1e-3)
    assert float((real - keep * lesson.z_s).std()) > 0.1
    assert (start is not None) == conditional
    if conditional:
        assert torch.equal(start[0], lesson.z_t) and torch.equal(start[1], lesson.t)


def test_the_penalty_is_taken_at_what_the_discriminator_saw(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    objective, ruler = ruled(Supervision(4, 2), penalty_sigma=0.05)
    take(objective, DISCRIMINATOR, make_batch(0), roles, 0)
    (first, *of_first), (second, *of_second) = ruler.asked
    assert all(a is b for a, b in zip(of_first, of_second, strict=True))
    assert float((second - first).std()) == pytest.approx(0.05, rel=0.1)


def test_the_penalty_counts_lazily_and_on_average_as_asked(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    """The ruler's gradient is its slope at every one of 256 numbers."""
    objective, _ = ruled(Supervision(4, 2), slope=0.1, r1=3.0, r2=1.0, penalty_every=4)
    batch = make_batch(0, copies=100)
    for step, times in enumerate((1, 0, 0, 0, 4, 0)):  # the first step's warm-up pays in every turn
        terms = take(objective, DISCRIMINATOR, batch, roles, step)
        paid = float((terms["loss"] - terms["adversarial"]).detach())
        if not times:
            assert paid == 0 and "r1" not in terms
            continue
        r1, r2 = (float(terms[name]) for name in ("r1", "r2"))
        assert r1 == pytest.approx(0.1**2 * 256 / 2, rel=0.3)
        assert r2 == pytest.approx(r1, rel=0.3)
        assert paid == pytest.approx(times * (3 * r1 + r2), rel=1e-4)


def test_without_penalties_none_is_computed(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    objective, ruler = ruled(Supervision(4, 2), r1=0.0, r2=0.0)
    assert "r1" not in take(objective, DISCRIMINATOR, make_batch(0), roles, 0)
    assert len(ruler.asked) == 1


def test_a_turn_follows_from_batch_and_step_alone(
    roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch
) -> None:
    """So that a run that was interrupted goes on as if it had not been."""
    first, second = (make(roles, conditions, Supervision(4, 2)) for _ in range(2))
    for turn in (DISCRIMINATOR, STUDENT):
        take(second, turn, make_batch(5), roles, 3)
        losses = [take(objective, turn, make_batch(7), roles, 4)["loss"] for objective in (first, second)]
        assert torch.equal(*losses)


def test_settings_refuse() -> None:
    for wrong in ({"loss": "wgan"}, {"r1": -1}, {"betas": [1.0, 0.99]}, {"penalty_every": 0}, {"anchor": {"w": 1}}):
        with pytest.raises(ValidationError):
            Adversarial.model_validate(wrong)


# --- rounds


@pytest.mark.parametrize("arm", [{}, {"conditional": False, "judges": "sample", "real": "clips"}])
def test_turns_of_a_round_share_the_students_forward_pass(
    roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch, arm: dict[str, Any]
) -> None:
    """With the same gradients as where each turn makes its own."""
    objective, gradients, calls = make(roles, conditions, Supervision(4, 2), **arm), [], 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    handle = roles.student.register_forward_pre_hook(count)
    for keep_graph, expected in ((True, 1), (False, 2)):
        calls = 0
        roles.student.zero_grad()
        lesson = objective.lesson((DISCRIMINATOR, STUDENT), make_batch(0), roles, keep_graph)
        objective.loss(DISCRIMINATOR, lesson, roles, 1)["loss"].backward()
        assert untouched(roles.student)
        objective.loss(STUDENT, lesson, roles, 1)["loss"].backward()
        anchor_alone = 1 if arm else 0
        assert calls == expected * (2 if arm else 1) + anchor_alone
        gradients.append([p.grad.clone() for p in roles.student.parameters() if p.grad is not None])
    handle.remove()
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-3)


def test_z_t_is_read_once_for_all_turns(roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch) -> None:
    objective, clips = make(roles, conditions, Supervision(4, 2), r1=0.0, r2=0.0), list[int]()

    def count(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        clips.append(len(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]))

    handle = roles.backbone.register_forward_pre_hook(count, with_kwargs=True)
    lesson = objective.lesson((DISCRIMINATOR, STUDENT), make_batch(0), roles, keep_graph=True)
    for turn in (DISCRIMINATOR, STUDENT):
        objective.loss(turn, lesson, roles, 1)
    handle.remove()
    assert clips == [2, 4, 2, 2]  # z_t; real and fake; then the fake with gradients, and the real one


def test_prompts_of_other_clips_are_further_fakes(
    roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch
) -> None:
    objective = make(roles, conditions, Supervision(4, 2), mismatched=2.0, **RELAXED)
    figures = take(objective, DISCRIMINATOR, make_batch(0), roles, 1)
    torch.testing.assert_close(
        figures["loss"].detach(), figures["adversarial"] + 2 * figures["mismatched"], atol=1e-6, rtol=1e-6
    )
    assert float(figures["mismatched"]) == pytest.approx(math.log(2), abs=0.1)  # it knows nothing yet


def test_clips_of_one_prompt_are_no_fakes(roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch) -> None:
    objective = make(roles, conditions, Supervision(4, 2), mismatched=2.0, **RELAXED)
    batch = make_batch(0)
    alike = replace(batch, conditions=batch.conditions[[0] * len(batch.conditions)])
    assert float(take(objective, DISCRIMINATOR, alike, roles, 1)["mismatched"]) == 0


def test_a_balanced_discriminator_catches_up_or_waits(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    balance = {"low": 0.6, "high": 0.9, "most": 3}
    objective, ruler = ruled(Supervision(4, 2), balance=balance, warmup=0, **RELAXED)
    assert list(objective.rounds(1)) == [(DISCRIMINATOR,) * 3 + (STUDENT,)]  # nothing is known yet: as at chance
    real, fake = torch.ones(2, 1), torch.zeros(2, 1)
    objective.scores.update(torch.tensor([0, 1]), real, fake)
    assert objective.scores.accuracy == 1.0
    assert list(objective.rounds(1)) == [(STUDENT,)]
    terms = take(objective, STUDENT, make_batch(0), roles, 1)  # it waits, and is measured meanwhile
    assert float(terms["discriminator_steps"]) == 0
    assert objective.scores.accuracy < 1.0 or float(ruler.slope) > 0
    for _ in range(5):
        objective.scores.update(torch.tensor([0, 1]), fake, real)
    assert 0 < objective.scores.accuracy < 0.6
    while objective.scores.accuracy < 0.6:
        objective.scores.update(torch.tensor([0, 1]), real, fake)
    assert list(objective.rounds(1)) == [(DISCRIMINATOR, STUDENT)]


def test_a_student_waits_where_the_discriminator_is_wrong(
    roles: NetworkRoles, conditions: Conditions, make_batch: MakeBatch
) -> None:
    """Transition by transition: only clips of the one that it knows count."""
    balance = {"low": 0.6, "high": 0.9}
    settings = {**RELAXED, "loss": "hinge", "anchor": {"weight": 0}, "weight": 1.0}
    gradients = {}
    for known in ((), (0,), (0, 1)):
        objective = make(roles, conditions, Supervision(4, 2), balance=balance, **settings)
        for transition in (0, 1):
            right = transition in known
            real, fake = torch.full((8, 1), float(right)), torch.full((8, 1), float(not right))
            for _ in range(50):
                objective.scores.update(torch.full((8,), transition), real, fake)
        roles.student.zero_grad()
        lesson = objective.lesson((DISCRIMINATOR, STUDENT), make_batch(0, copies=4), roles, keep_graph=False)
        objective.loss(STUDENT, lesson, roles, 1)["loss"].backward()
        gradients[known] = sum(float(p.grad.abs().sum()) for p in roles.student.parameters() if p.grad is not None)
    assert gradients[()] == 0
    assert gradients[(0,)] > 0 and gradients[(0, 1)] > 0 and gradients[(0,)] != gradients[(0, 1)]
