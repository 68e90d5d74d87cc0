"""The Frechet distance against an eigenvalue reference, and its interval against simulation."""

from __future__ import annotations

import pytest
import torch

from fewstep.eval.metrics.frechet import frechet, frechet_interval


def reference(first: torch.Tensor, second: torch.Tensor) -> float:
    """By eigenvalues of S1^(1/2) S2 S1^(1/2), in float64."""
    first, second = first.double(), second.double()
    values, vectors = torch.linalg.eigh(first.T.cov())
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ second.T.cov() @ root).clamp_min(0).sqrt().sum()
    mean = (first.mean(0) - second.mean(0)).square().sum()
    return float(mean + first.T.cov().trace() + second.T.cov().trace() - 2 * cross)


def draw(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 12, generator=generator) * torch.linspace(0.5, 2, 12) + shift


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


def test_the_interval_covers_a_repeated_measurement() -> None:
    against = draw(4000, 99)
    expected = sum(frechet(draw(100, seed, 0.3), against) for seed in range(200)) / 200
    covered = 0
    for seed in range(60):
        found = frechet_interval(draw(100, 1000 + seed, 0.3), against, draws=100)
        assert found.low <= found.value <= found.high
        covered += found.low <= expected <= found.high
    assert covered / 60 > 0.85


def test_single_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="N at least 2"):
        frechet(draw(1, 0), draw(5, 0))
