"""Errors in the student's own prediction."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import mse_loss

from fewstep.distill.objectives.regression import Regression, regress
from fewstep.teacher.schedule import NoiseSchedule

ALPHAS = tuple(torch.linspace(0.999, 0.01, 50, dtype=torch.float64).tolist())
T = torch.tensor([0.3, 0.9, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "schedule",
    [
        NoiseSchedule("flow", "flow"),
        NoiseSchedule("flow", "x0"),
        NoiseSchedule("vp", "eps", alphas_cumprod=ALPHAS),
        NoiseSchedule("vp", "v", alphas_cumprod=ALPHAS),
        NoiseSchedule("edm", "v"),
    ],
    ids=lambda s: f"{s.kind}-{s.prediction}",
)
def test_mse_is_that_of_the_predictions(schedule: NoiseSchedule) -> None:
    torch.manual_seed(0)
    z_t, x0, target = torch.randn(3, 3, 4, 2, 2, 2, dtype=torch.float64).unbind()
    expected = mse_loss(schedule.from_x0(x0, z_t, T), schedule.from_x0(target, z_t, T))
    torch.testing.assert_close(regress(schedule, x0, target, T), expected)


def test_huber_is_squared_for_small_errors_and_absolute_for_large_ones() -> None:
    schedule, target = NoiseSchedule("flow", "x0"), torch.zeros(3, 5, dtype=torch.float64)
    small, large = target + 1e-5, target + 1e3
    torch.testing.assert_close(regress(schedule, small, target, T, "huber", 0.1), regress(schedule, small, target, T))
    actual = regress(schedule, large, target, T, "huber", 0.1)
    torch.testing.assert_close(actual, torch.tensor(2 * 0.1 * (1e3 - 0.1), dtype=torch.float64), rtol=1e-6, atol=0)
    medium = regress(schedule, target + 0.3, target, T, "huber", 0.1)
    assert float(medium) == pytest.approx(2 * 0.1 * ((0.3**2 + 0.1**2) ** 0.5 - 0.1))


@pytest.mark.parametrize("kind", ["mse", "huber"])
def test_gradients_are_finite_where_there_is_no_error(kind: Regression) -> None:
    x0 = torch.zeros(3, 2, requires_grad=True)
    regress(NoiseSchedule("flow", "flow"), x0, torch.zeros(3, 2), T, kind).backward()
    assert x0.grad is not None and not x0.grad.any()
