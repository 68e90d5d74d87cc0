"""The kernel distance against its definition, and against simulation."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from fewstep.eval.metrics.kernel import kernel_distance, kernel_interval


def draw(count: int, generator: torch.Generator, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 6, generator=generator) * scale + shift


def definition(first: Tensor, second: Tensor) -> float:
    """Pair by pair."""

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x.double() @ y.double()) / len(x) + 1) ** 3

    within = [sum(kernel(x, y) for x, y in permutations(z, 2)) / (len(z) * (len(z) - 1)) for z in (first, second)]
    across = sum(kernel(x, y) for x in first for y in second) / (len(first) * len(second))
    return sum(within) - 2 * across


def test_is_the_u_statistic() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = draw(7, generator), draw(11, generator, 1.3, 0.2)
    assert kernel_distance(first, second) == pytest.approx(definition(first, second), rel=1e-12)


def test_the_interval_is_that_of_leaving_out_each_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = draw(7, generator), draw(11, generator, 1.3, 0.2)
    own = torch.tensor([definition(torch.cat([first[:i], first[i + 1 :]]), second) for i in range(7)])
    other = torch.tensor([definition(first, torch.cat([second[:i], second[i + 1 :]])) for i in range(11)])
    error = sum((len(x) - 1) / len(x) * float((x - x.mean()).square().sum()) for x in (own, other)) ** 0.5
    interval = kernel_interval(first, second)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=1e-4)


def test_large_sets_are_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = draw(20, generator), draw(30, generator)
    whole = kernel_interval(first, second)
    monkeypatch.setattr("fewstep.eval.metrics.kernel._BLOCK", 7)
    assert kernel_interval(first, second).value == pytest.approx(whole.value, rel=1e-9)


@pytest.mark.parametrize(("scale", "shift"), [pytest.param(1.0, 0.0, marks=pytest.mark.slow), (1.2, 0.3)])
def test_is_unbiased_and_its_interval_covers_the_truth(scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    large = [kernel_distance(draw(2000, generator, scale, shift), draw(2000, generator)) for _ in range(20)]
    truth = 0.0 if (scale, shift) == (1.0, 0.0) else sum(large) / 20
    intervals = [kernel_interval(draw(60, generator, scale, shift), draw(80, generator)) for _ in range(200)]
    values = torch.tensor([interval.value for interval in intervals])
    assert abs(values.mean() - truth) < 2.6 * values.std() / 200**0.5
    assert 0.90 <= sum(interval.low <= truth <= interval.high for interval in intervals) / 200 <= 0.98


def test_two_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="N at least 3"):
        kernel_distance(torch.zeros(2, 4), torch.zeros(5, 4))
