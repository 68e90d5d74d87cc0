"""The paired bootstrap against plain numpy, and against figures that are not paired."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.eval.metrics import paired
from fewstep.eval.metrics.frechet import FRECHET_DRAWS, frechet_interval

N, D = 120, 6


def features(count: int, seed: int) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.5, 2, D)


REFERENCE = features(300, 0)
OTHER = features(N, 1) + 0.5
OWN = OTHER + 0.1 * features(N, 2) + 0.05  # of the same prompts and noise


def numpy_frechet(samples: Any, reference: Any) -> float:
    one, two = np.cov(samples.T), np.cov(reference.T)
    cross = np.sqrt(np.clip(np.linalg.eigvals(one @ two).real, 0, None)).sum()
    return float(((samples.mean(0) - reference.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * cross)


def numpy_draws(samples: Tensor) -> tuple[float, Any]:
    """Distances of the very resamples that torch's generator gives, moved to the measured one."""
    generator = torch.Generator().manual_seed(0)
    taken = [torch.randint(N, (N,), generator=generator).numpy() for _ in range(FRECHET_DRAWS)]
    array, reference = samples.double().numpy(), REFERENCE.double().numpy()
    value = numpy_frechet(array, reference)
    distances = np.array([numpy_frechet(array[rows], reference) for rows in taken])
    return value, value + distances - distances.mean()


def test_difference_and_ratio_equal_a_plain_numpy_computation() -> None:
    own, other = (paired.distance(x, REFERENCE) for x in (OWN, OTHER))
    (value, draws), (other_value, other_draws) = numpy_draws(OWN), numpy_draws(OTHER)
    for interval, expected, spread in (
        (paired.difference(own, other).interval, value - other_value, draws - other_draws),
        (paired.ratio(own, other).interval, value / other_value, draws / other_draws),
    ):
        low, high = np.quantile(spread, [0.025, 0.975])
        assert (interval.value, interval.low, interval.high) == pytest.approx((expected, low, high), rel=1e-4, abs=1e-5)
        assert interval.low < interval.value < interval.high


def test_a_paired_interval_is_narrower_than_an_unpaired_one() -> None:
    own, other = paired.distance(OWN, REFERENCE), paired.distance(OTHER, REFERENCE)
    interval = paired.difference(own, other).interval
    shuffled = Tensor(other.draws[torch.randperm(FRECHET_DRAWS, generator=torch.Generator().manual_seed(3))])
    unpaired = paired.difference(own, paired.Resampled(other.value, shuffled, other.drawn)).interval
    assert interval.high - interval.low < 0.5 * (unpaired.high - unpaired.low)
    assert interval.value == unpaired.value


def test_a_distance_has_the_interval_that_tables_show() -> None:
    interval, shown = paired.distance(OWN, REFERENCE).interval, frechet_interval(OWN, REFERENCE)
    assert (interval.value, interval.low, interval.high) == (shown.value, shown.low, shown.high)


def test_points_of_accuracy_are_paired_over_prompts() -> None:
    other = torch.arange(N) % 10 < 8
    own = other | (torch.arange(N) % 20 == 9)  # 6 more prompts, none lost
    interval = paired.difference(paired.mean(100.0 * own), paired.mean(100.0 * other))
    generator = torch.Generator().manual_seed(0)
    taken = torch.randint(N, (len(interval.draws), N), generator=generator)
    plain = 100 * (own[taken].double().mean(1) - other[taken].double().mean(1))
    low, high = np.quantile(plain.numpy(), [0.025, 0.975])
    assert (interval.value, interval.interval.low, interval.interval.high) == pytest.approx((5, low, high))
    assert (
        interval.interval.low > 0 and paired.mean(100.0 * own).interval.low < paired.mean(100.0 * other).interval.high
    )


def test_seeds_that_differ_widen_the_interval_over_them() -> None:
    one = paired.difference(paired.distance(OWN, REFERENCE), paired.distance(OTHER, REFERENCE))
    other = paired.Resampled(one.value + 10, one.draws + 10, one.drawn)
    alone, alike, apart = (paired.over_seeds(x).interval for x in ([one], [one, one, one], [one, one, other]))
    assert (alone.value, alone.low, alone.high) == pytest.approx((one.value, one.interval.low, one.interval.high))
    assert (alike.low, alike.high) == pytest.approx((one.interval.low, one.interval.high))
    assert apart.value == pytest.approx(one.value + 10 / 3)
    assert apart.high - apart.low > 5 + alike.high - alike.low


def test_what_cannot_be_paired_is_refused() -> None:
    own = paired.mean(torch.ones(4))
    for other in (paired.mean(torch.ones(5)), paired.mean(torch.ones(4), seed=1), paired.distance(OWN[:4], REFERENCE)):
        with pytest.raises(ValueError, match="cannot be paired"):
            paired.difference(own, other)
    with pytest.raises(ValueError, match="only to one above 0"):
        paired.ratio(own, paired.mean(torch.zeros(4)))
    with pytest.raises(ValueError, match="at least one"):
        paired.over_seeds([])
