"""The Frechet distance against an eigenvalue reference, and its intervals against simulation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fewstep.eval.metrics.frechet import extrapolated, fewest_clips, frechet, frechet_interval

SIMULATIONS = 100


def reference(first: Tensor, second: Tensor) -> float:
    """By eigenvalues of S1^(1/2) S2 S1^(1/2), in float64."""
    first, second = first.double(), second.double()
    values, vectors = torch.linalg.eigh(first.T.cov())
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second.T.cov() @ root).clamp_min(0).sqrt().sum()
    mean = (first.mean(0) - second.mean(0)).square().sum()
    return float(mean + first.T.cov().trace() + second.T.cov().trace() - 2 * cross)


def draw(count: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 12, generator=generator) * torch.linspace(0.5, 2, 12) + shift


class Gaussians:
    """Pairs of axis-aligned Gaussians: the distance of the populations is known, |m|^2 + |s1 - s2|^2."""

    def __init__(self, dimensions: int, shift: float, scale: float, heavy: bool = False) -> None:
        self.deviation = torch.arange(1, dimensions + 1, dtype=torch.float64).rsqrt()
        self.shift, self.scale, self.heavy = shift * self.deviation, scale, heavy
        self.generator = torch.Generator().manual_seed(1)
        self.distance = float(self.shift.square().sum() + ((scale - 1) * self.deviation).square().sum())

    def reference(self, count: int) -> Tensor:
        noise = torch.randn(count, len(self.deviation), generator=self.generator, dtype=torch.float64)
        if self.heavy:  # a radius of its own for each clip, of mean square 1
            noise *= (0.4 + 1.2 * torch.rand(count, 1, generator=self.generator, dtype=torch.float64)) / 1.12**0.5
        return self.deviation * noise

    def samples(self, count: int) -> Tensor:
        return self.scale * self.reference(count) + self.shift


def share(covers: Callable[[int], bool]) -> float:
    return sum(covers(i) for i in range(SIMULATIONS)) / SIMULATIONS


@pytest.mark.parametrize("counts", [(200, 300), (10, 300), (8, 9)])  # also fewer samples than dimensions
def test_equals_the_eigenvalue_reference(counts: tuple[int, int]) -> None:
    first, second = draw(counts[0], 0), draw(counts[1], 1, shift=0.3)
    assert frechet(first, second) == pytest.approx(reference(first, second), rel=1e-6)


def test_of_a_set_to_itself_is_zero_and_grows_with_noise() -> None:
    real = draw(500, 0)
    assert frechet(real, real) < 1e-9
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(2))
    distances = [frechet(real + strength * noise, real) for strength in (0.1, 0.5, 1.0)]
    assert distances == sorted(distances)


@pytest.mark.parametrize(("shift", "scale"), [(0.3, 1.0), pytest.param(0.0, 1.2, marks=pytest.mark.slow)])
def test_the_interval_covers_the_mean_measurement_of_as_many_samples(shift: float, scale: float) -> None:
    world = Gaussians(12, shift, scale)
    against = world.reference(400)
    expected = sum(frechet(world.samples(200), against) for _ in range(400)) / 400
    assert expected > 1.1 * world.distance  # biased upwards: this interval is not about the populations

    def covers(seed: int) -> bool:
        interval = frechet_interval(world.samples(200), against, seed, draws=100)
        assert interval.low <= interval.value <= interval.high
        return interval.low <= expected <= interval.high

    assert 0.90 <= share(covers) <= 0.98


@pytest.mark.parametrize(
    ("dimensions", "shift", "scale", "heavy"),
    [
        (12, 0.3, 1.0, False),
        pytest.param(8, 0.0, 1.0, False, marks=pytest.mark.slow),
        pytest.param(12, 0.3, 1.1, True, marks=pytest.mark.slow),
    ],
)
def test_the_extrapolated_interval_covers_the_distance_of_the_populations(
    dimensions: int, shift: float, scale: float, heavy: bool
) -> None:
    world = Gaussians(dimensions, shift, scale, heavy)
    errors = []

    def covers(seed: int) -> bool:
        samples, against = world.samples(160), world.reference(320)
        interval = extrapolated(samples, against, seed)
        assert interval is not None and interval.low < interval.value < interval.high
        errors.append((interval.value - world.distance, frechet(samples, against) - world.distance))
        return interval.low <= world.distance <= interval.high

    assert 0.90 <= share(covers) <= 0.98
    own, plain = torch.tensor(errors).mean(0).tolist()
    assert abs(own) < 0.1 * plain


def test_nothing_is_extrapolated_from_few_clips() -> None:
    assert fewest_clips(400) == 1600
    assert extrapolated(draw(47, 0), draw(300, 1)) is None
    assert extrapolated(draw(300, 0), draw(47, 1)) is None
    assert extrapolated(draw(48, 0), draw(48, 1)) is not None


def test_single_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="N at least 2"):
        frechet(draw(1, 0), draw(5, 0))
