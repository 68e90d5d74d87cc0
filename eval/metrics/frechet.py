"""Frechet distance between two sets of features, and the interval of its sampling error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def frechet(first: Tensor, second: Tensor) -> float:
    """Frechet distance |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of features (N1, D) and (N2, D), in float64.

    Tr (S1 S2)^(1/2) is the nuclear norm of R1 R2^T, where S = R^T R: exact, and no matrix square root is taken.
    """
    mean1, root1 = _moments(first)
    mean2, root2 = _moments(second)
    return _distance(mean1, root1, mean2, root2)


def frechet_interval(samples: Tensor, reference: Tensor, seed: int = 0, draws: int = 200) -> Interval:
    """Frechet distance of `samples` (N, D) to `reference`, with a 95 % bootstrap interval over the samples.

    A Frechet distance of N samples is biased upwards, by some D^2/4N for features of unit variance, and a resample
    of them once more. The interval is
    therefore the spread of the resampled distances around their own mean, moved to the measured value: it says how
    far another N samples would lie, and compares only with figures of the same N.
    """
    mean2, root2 = _moments(reference)
    value = _distance(*_moments(samples), mean2, root2)
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        chosen = torch.randint(len(samples), (len(samples),), generator=generator)
        found.append(_distance(*_moments(samples[chosen]), mean2, root2))
    spread = torch.tensor(found, dtype=torch.float64)
    low, high = (spread - spread.mean()).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, max(0.0, value + low), value + high)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a root R with R^T R = covariance (unbiased). Raises ValueError below two samples."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; they must be (N, D) with N at least 2")
    features = features.double()
    mean = features.mean(0)
    root = torch.linalg.qr(features - mean, mode="r").R / (len(features) - 1) ** 0.5
    return mean, root


def _distance(mean1: Tensor, root1: Tensor, mean2: Tensor, root2: Tensor) -> float:
    cross = torch.linalg.matrix_norm(root1 @ root2.T, ord="nuc")
    squares = (mean1 - mean2).square().sum() + root1.square().sum() + root2.square().sum()
    return float((squares - 2 * cross).clamp_min(0))
