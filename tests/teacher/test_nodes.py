"""Mochi's own nodes as a function of the position: diffusers' list for every even number of steps."""

from __future__ import annotations

import pytest
import torch
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

from fewstep.teacher.nodes import linear_quadratic, linear_quadratic_position


@pytest.mark.parametrize("steps", [2, 4, 8, 64])
def test_they_are_those_of_the_pipeline(steps: int) -> None:
    expected = [*linear_quadratic_schedule(steps, 0.025), 0.0]
    assert [linear_quadratic(1 - i / steps) for i in range(steps + 1)] == pytest.approx(expected, abs=1e-9)


def test_the_position_comes_back() -> None:
    x = torch.linspace(0, 1, 33, dtype=torch.float64)
    assert torch.allclose(linear_quadratic_position(linear_quadratic(x)), x, atol=1e-9)
    assert linear_quadratic_position(linear_quadratic(0.3)) == pytest.approx(0.3)
    assert bool((linear_quadratic(x).diff() > 0).all())
