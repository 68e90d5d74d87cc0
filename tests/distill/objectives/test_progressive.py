"""Progressive distillation of the tiny teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fewstep.distill.objectives.base import STUDENT, Batch, NetworkRoles, Objective
from fewstep.distill.objectives.progressive import Progressive, ProgressiveObjective
from fewstep.distill.objectives.regression import regress
from fewstep.distill.objectives.supervision import Supervision
from tests.distill.objectives.conftest import take


def test_only_the_student_moves(roles: NetworkRoles, make_batch: Callable[..., Batch]) -> None:
    objective: Objective[Any] = ProgressiveObjective(Progressive(), Supervision(4, 2, guidance=3.0))
    assert objective.trainees() == {}
    assert tuple(objective.rounds(0)) == tuple(objective.rounds(7)) == ((STUDENT,),)
    take(objective, STUDENT, make_batch(0), roles, 0)["loss"].backward()
    assert any(p.grad is not None and p.grad.any() for p in roles.student.parameters())
    for network in (roles.supervisor, roles.backbone):
        assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_a_student_that_does_as_its_supervisor_has_nothing_to_learn(
    roles: NetworkRoles, make_batch: Callable[..., Batch], loss: str
) -> None:
    settings = Progressive.model_validate({"loss": loss})
    same = take(ProgressiveObjective(settings, Supervision(4, 4)), STUDENT, make_batch(0), roles, 0)["loss"]
    assert float(same.detach()) < 1e-9  # zero but for rounding: the target is solved from the endpoint
    more = take(ProgressiveObjective(settings, Supervision(4, 2)), STUDENT, make_batch(0), roles, 0)["loss"]
    assert float(more.detach()) > 1e-4


def test_the_loss_is_the_one_that_is_set(roles: NetworkRoles, make_batch: Callable[..., Batch]) -> None:
    supervision, batch = Supervision(4, 2), make_batch(0)
    lesson, schedule = supervision.lesson(batch, roles), roles.teacher.schedule
    x0 = roles.teacher.denoise(lesson.z_t, lesson.t, batch.conditions, network=roles.student)
    objective = ProgressiveObjective(Progressive(loss="huber", huber_c=0.02), supervision)
    loss = take(objective, STUDENT, make_batch(0), roles, 0)["loss"]
    target = lesson.target(schedule)
    torch.testing.assert_close(loss, regress(schedule, x0, target, lesson.t, "huber", 0.02))
    assert float(loss.detach()) < 0.9 * float(regress(schedule, x0, target, lesson.t).detach())


def test_a_few_steps_help(roles: NetworkRoles, make_batch: Callable[..., Batch]) -> None:
    objective = ProgressiveObjective(Progressive(), Supervision(4, 2, guidance=2.0))
    optimizer = torch.optim.Adam(roles.student.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = take(objective, STUDENT, make_batch(0), roles, 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_settings_refuse() -> None:
    for wrong in ({"loss": "l1"}, {"huber_c": 0.0}, {"los": "mse"}):
        with pytest.raises(ValidationError):
            Progressive.model_validate(wrong)
