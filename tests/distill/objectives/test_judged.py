"""What is compared with what: endpoints, clips and samples, of the supervisor or of the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.distill.objectives.adversarial import DISCRIMINATOR
from fewstep.distill.objectives.base import STUDENT, Batch, NetworkRoles
from fewstep.distill.objectives.supervision import Supervision
from fewstep.teacher.rollout import rollout
from tests.distill.objectives.conftest import take
from tests.distill.objectives.ruler import RELAXED, ruled

MakeBatch = Callable[..., Batch]


def shown(
    roles: NetworkRoles, make_batch: MakeBatch, supervision: Supervision, **settings: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides and their times, without further noise."""
    objective, ruler = ruled(supervision, **{**RELAXED, **settings})
    take(objective, DISCRIMINATOR, make_batch(3, copies=4), roles, 1)
    both, s, *_ = ruler.asked[0]
    return (*both.chunk(2), s)


def test_clips_are_real_at_the_steps_end_or_where_it_ends_in_data(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    supervision, batch = Supervision(4, 2), make_batch(3, copies=4)
    schedule, step = roles.teacher.schedule, supervision.draw(batch, roles.teacher.schedule)
    at_data = step.s == 0
    assert at_data.any() and not at_data.all()
    z_s = supervision.teach(step, batch, roles).z_s
    noised = schedule.add_noise(batch.x0, step.noise, step.s)
    for setting, above in (("clips", noised), ("clips_at_data", z_s)):
        real, _, s = shown(roles, make_batch, supervision, real=setting)
        assert torch.equal(s, step.s)
        torch.testing.assert_close(real[at_data], batch.x0[at_data])
        torch.testing.assert_close(real[~at_data], above[~at_data])
    assert not torch.allclose(z_s[at_data], batch.x0[at_data], atol=0.1)


def test_the_clip_that_a_step_stands_for(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    supervision, batch = Supervision(4, 2), make_batch(3, copies=4)
    lesson = supervision.lesson(batch, roles)
    x0 = roles.teacher.denoise(lesson.z_t, lesson.t, batch.conditions, network=roles.student).detach()
    real, fake, s = shown(roles, make_batch, supervision, judges="clip")
    assert not s.any()
    torch.testing.assert_close(real, lesson.target(roles.teacher.schedule), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(fake, x0, atol=1e-5, rtol=1e-4)
    real, fake, s = shown(roles, make_batch, supervision, judges="clip", real="clips")
    assert torch.equal(real, batch.x0) and not s.any()


def test_the_end_of_the_students_own_chain(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    for parameter in roles.student.parameters():
        parameter.data *= 0.9
    supervision, batch = Supervision(4, 2), make_batch(3, copies=4)
    noise, schedule = batch.noise(), roles.teacher.schedule
    real, fake, s = shown(roles, make_batch, supervision, judges="sample", real="clips")
    assert torch.equal(real, batch.x0) and not s.any()
    expected = rollout(roles.teacher, noise, batch.conditions, schedule.grid(2), network=roles.student)
    torch.testing.assert_close(fake, expected, atol=1e-5, rtol=1e-4)
    real, _, _ = shown(roles, make_batch, supervision, judges="sample")
    expected = rollout(roles.teacher, noise, batch.conditions, schedule.grid(4), network=roles.supervisor)
    torch.testing.assert_close(real, expected, atol=1e-5, rtol=1e-4)


def test_gradients_pass_through_the_steps_that_are_set(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    """Through the last step alone they are those of that step, taken from where the chain had come."""
    supervision, batch, schedule = Supervision(4, 2), make_batch(3), roles.teacher.schedule
    settings: dict[str, Any] = {
        **RELAXED,
        "judges": "sample",
        "real": "clips",
        "loss": "hinge",
        "anchor": {"weight": 0},
        "weight": 1.0,
    }
    norms = {}
    for through in ("all", "last", "drawn"):
        objective, _ = ruled(supervision, slope=1.0, through=through, **settings)
        roles.student.zero_grad()
        take(objective, STUDENT, make_batch(3), roles, 1)["loss"].backward()
        norms[through] = sum(float(p.grad.norm()) for p in roles.student.parameters() if p.grad is not None)
    noise, grid = batch.noise(), schedule.grid(2)
    roles.student.zero_grad()
    middle = rollout(roles.teacher, noise, batch.conditions, grid[:2], network=roles.student)
    x0 = roles.teacher.denoise(middle, grid[1], batch.conditions, network=roles.student)
    (-schedule.step(middle, x0, grid[1], grid[2]).flatten(1).sum(dim=1)).mean().backward()
    last = sum(float(p.grad.norm()) for p in roles.student.parameters() if p.grad is not None)
    assert norms["last"] == pytest.approx(last, rel=1e-3)
    assert norms["all"] != pytest.approx(last, rel=1e-2)
    assert any(norms["drawn"] == pytest.approx(norms[other], rel=1e-3) for other in ("all", "last"))


def test_nothing_that_needs_no_supervisor_pays_for_one(roles: NetworkRoles, make_batch: MakeBatch) -> None:
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    roles.supervisor.register_forward_pre_hook(count)
    for judges in ("endpoint", "clip", "sample"):
        settings: dict[str, Any] = {**RELAXED, "judges": judges, "anchor": {"weight": 0}}
        for turn in (DISCRIMINATOR, STUDENT):
            take(ruled(Supervision(4, 2), real="clips", **settings)[0], turn, make_batch(0), roles, 1)
        assert calls == 0
    take(ruled(Supervision(4, 1), real="clips_at_data", **settings)[0], STUDENT, make_batch(0), roles, 1)
    assert calls == 0  # a single step ends in data
    take(ruled(Supervision(4, 2), **settings)[0], STUDENT, make_batch(0), roles, 1)
    assert calls > 0
