"""Sampling and endpoints."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from fewstep.teacher.base import Teacher
from fewstep.teacher.rollout import endpoint, rollout

SHAPE = (16, 3, 2, 2)


def test_rollout_reports_steps_and_leaves_no_gradient(tiny_teacher: Teacher) -> None:
    conditions, seen = tiny_teacher.conditions(["a red circle"]), list[int]()
    z = tiny_teacher.noise([0], SHAPE).requires_grad_()
    x0 = rollout(tiny_teacher, z, conditions, tiny_teacher.schedule.grid(3), 5.0, seen.append)
    assert seen == [1, 2, 3]
    assert not x0.requires_grad


def test_endpoints_follow_the_fine_grid(tiny_teacher: Teacher) -> None:
    """Two students' intervals of 4 substeps are the teacher's 8 steps."""
    conditions, schedule = tiny_teacher.conditions(["a red circle"]), tiny_teacher.schedule
    z, (t, middle, s) = tiny_teacher.noise([0], SHAPE), schedule.grid(2)
    whole = rollout(tiny_teacher, z, conditions, schedule.grid(8), 5.0)
    half = endpoint(tiny_teacher, z, t, middle, 4, conditions, 5.0)
    actual = endpoint(tiny_teacher, half, middle, s, 4, conditions, 5.0)
    torch.testing.assert_close(actual, whole, atol=1e-5, rtol=1e-5)
    target = schedule.endpoint_x0(z, half, t, middle)
    torch.testing.assert_close(schedule.step(z, target, t, middle), half, atol=1e-5, rtol=1e-4)


def test_an_endpoint_without_steps_is_refused(tiny_teacher: Teacher) -> None:
    conditions, z = tiny_teacher.conditions(["a red circle"]), tiny_teacher.noise([0], SHAPE)
    with pytest.raises(ValueError, match="0 steps asked for"):
        endpoint(tiny_teacher, z, 1.0, 0.5, 0, conditions)


def test_endpoints_of_a_batch_with_times_of_its_own(tiny_teacher: Teacher) -> None:
    conditions, z = (
        tiny_teacher.conditions(["a red circle", "a blue square"]),
        tiny_teacher.noise([0, 1], SHAPE),
    )
    t, s = torch.tensor([1.0, 0.6]), torch.tensor([0.8, 0.0])
    together = endpoint(tiny_teacher, z, t, s, 3, conditions, 2.0)
    for i in range(2):
        part = slice(i, i + 1)
        alone = endpoint(tiny_teacher, z[part], float(t[i]), float(s[i]), 3, conditions[part], 2.0)
        torch.testing.assert_close(together[part], alone, atol=1e-4, rtol=1e-4)


def test_another_network_is_asked_where_one_is_given(tiny_teacher: Teacher) -> None:
    conditions, z = tiny_teacher.conditions(["a red circle"]), tiny_teacher.noise([0], SHAPE)
    network = deepcopy(tiny_teacher.network_at(1.0))
    own = endpoint(tiny_teacher, z, 1.0, 0.5, 2, conditions, 5.0)
    assert torch.equal(endpoint(tiny_teacher, z, 1.0, 0.5, 2, conditions, 5.0, network), own)
    for parameter in network.parameters():
        parameter.mul_(1.1)
    assert not torch.allclose(endpoint(tiny_teacher, z, 1.0, 0.5, 2, conditions, 5.0, network), own)
