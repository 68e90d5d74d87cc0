"""Frechet distance between two sets of features, its sampling error, and its limit for infinitely many clips."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STATISTICS = {"covariance": "unbiased", "arithmetic": "float64"}  # for the protocol of every distance
FRECHET_DRAWS = 200  # of a bootstrap of distances
_GROUPS = 32  # of the jackknife
_SHUFFLES = 4  # into subsets: what they add to the error falls with them
_T = 2.04  # 97.5 % point of Student's t with 31 degrees of freedom


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def frechet(first: Tensor, second: Tensor) -> float:
    """Frechet distance |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)) of features (N1, D) and (N2, D), in float64.

    Tr (S1 S2)^(1/2) is the nuclear norm of R1 R2^T, where S = R^T R: exact, and no matrix square root is taken.
    Covariances are the unbiased ones. Raises ValueError below two samples.
    """
    (mean1, root1), (mean2, root2) = _moments(first), _moments(second)
    cross = torch.linalg.matrix_norm(root1 @ root2.T, ord="nuc")
    squares = (mean1 - mean2).square().sum() + root1.square().sum() + root2.square().sum()
    return float((squares - 2 * cross).clamp_min(0))


def frechet_interval(samples: Tensor, reference: Tensor, seed: int = 0, draws: int = FRECHET_DRAWS) -> Interval:
    """Frechet distance of `samples` (N, D) to `reference` (M, D), with a 95 % interval.

    What the interval covers is the mean distance, to this very reference, over all sets of N samples: the expected
    measurement, not the distance of infinitely many samples. The distance of N samples is biased upwards, by some
    D^2/4N for features of unit variance, and a resample of them once more; so the interval is the spread of the
    resampled distances around their own mean, moved to the measured value. It compares only with figures of the
    same N; see `extrapolated` for a figure without that bias.
    """
    value, resampled = frechet_draws(samples, reference, seed, draws)
    low, high = middle_95(resampled)
    return Interval(value, max(0.0, low), high)


def middle_95(draws: Tensor) -> tuple[float, float]:
    """The 2.5 and the 97.5 % quantile of the draws (B,), float64, of a bootstrap."""
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def frechet_draws(
    samples: Tensor, reference: Tensor, seed: int = 0, draws: int = FRECHET_DRAWS
) -> tuple[float, Tensor]:
    """Frechet distance of `samples` (N, D) to `reference` (M, D), and that of resamples of them, (draws,) in float64.

    Resamples are moved so that their mean is the distance itself, as `frechet_interval` says. Which samples a draw
    takes follows from N and `seed` alone. Raises ValueError below two samples.
    """
    generator = torch.Generator().manual_seed(seed)
    size, value = len(samples), frechet(samples, reference)
    drawn = [torch.randint(size, (size,), generator=generator) for _ in range(draws)]
    # a draw is how often it takes each clip
    resampled = _reweighted(samples, reference, torch.stack([torch.bincount(d, minlength=size) for d in drawn]))
    return value, value + resampled - resampled.mean()


def extrapolated(samples: Tensor, reference: Tensor, seed: int = 0) -> Interval | None:
    """The Frechet distance in the limit of infinitely many samples and references, with a 95 % interval that covers it.

    A straight line through the distances at all, 3/4, 2/3 and 1/2 of the clips of both sets, over 1/N, ends there
    (Chong and Forsyth, https://arxiv.org/abs/1911.07023, with subsets in which each clip comes equally often). Two
    sets of one kind scatter around 0, so it may be negative. The standard error is a delete-a-group jackknife's, over
    both sets. None where the line does not hold: below four clips for each of the D dimensions, in either set.
    """
    if min(len(samples), len(reference)) < fewest_clips(samples.shape[1]):
        return None
    generator = torch.Generator().manual_seed(seed)
    # points (N / n, distance of n of the N clips); the full sets count as often as each size of subset
    points = [(1.0, frechet(samples, reference))] * _SHUFFLES
    for _ in range(_SHUFFLES):
        own, other = (x[torch.randperm(len(x), generator=generator)] for x in (samples, reference))
        for parts in (2, 3, 4):
            distances = [frechet(_without(own, i, parts), _without(other, i, parts)) for i in range(parts)]
            points.append((parts / (parts - 1), sum(distances) / parts))
    # the line's value at 1/N = 0 is the distance without the bias of few clips
    over_n, distance = torch.tensor(points, dtype=torch.float64).T
    line = torch.linalg.lstsq(torch.stack([torch.ones_like(over_n), over_n], dim=1), distance[:, None]).solution
    limit, error = float(line[0]), (_jackknife(own, other) + _jackknife(other, own)) ** 0.5
    return Interval(limit, limit - _T * error, limit + _T * error)


def fewest_clips(dimensions: int) -> int:
    """How many clips of each kind `extrapolated` needs for features of this many dimensions."""
    return max(4 * dimensions, _GROUPS)


def _without(features: Tensor, part: int, parts: int) -> Tensor:
    return features[torch.arange(len(features)) % parts != part]


def _jackknife(varied: Tensor, fixed: Tensor) -> float:
    """Variance of their distance that `varied` brings in."""
    kept = torch.arange(len(varied)) % _GROUPS != torch.arange(_GROUPS)[:, None]
    left_out = _reweighted(varied, fixed, kept.long())
    return float((_GROUPS - 1) / _GROUPS * (left_out - left_out.mean()).square().sum())


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and a root R with R^T R = covariance (unbiased)."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; they must be (N, D) with N at least 2")
    features = features.double()
    mean = features.mean(0)
    root = torch.linalg.qr(features - mean, mode="r").R / (len(features) - 1) ** 0.5
    return mean, root


def _reweighted(samples: Tensor, reference: Tensor, counts: Tensor) -> Tensor:
    """Distances (draws,) when sample i is taken counts[draw, i] times.

    Singular values come from the smaller Gram matrix: some ten times as fast, and good to some 1e-6 only.
    """
    # in coordinates around the reference's mean, with R_ref applied once for all draws
    mean, root = _moments(reference)
    samples = samples.double() - mean
    rotated, constant, distances = samples @ root.T, root.square().sum(), []
    for count in counts:
        taken = count > 0
        weight = count[taken].double()[:, None]
        total = weight.sum()
        # |m1 - m2|^2 and Tr S1 of the resample, weighted by how often each clip was drawn
        own_mean = (weight * samples[taken]).sum(0) / total
        spread = (weight * (samples[taken] - own_mean).square()).sum() / (total - 1)
        centred = rotated[taken] - own_mean @ root.T
        scaled = centred * (weight / (total - 1)).sqrt()
        # Tr (S1 S2)^(1/2): the sum of the singular values of R1 R2^T
        gram = scaled.T @ scaled if len(scaled) > scaled.shape[1] else scaled @ scaled.T
        cross = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().sum()
        distances.append((own_mean.square().sum() + spread + constant - 2 * cross).clamp_min(0))
    return torch.stack(distances)
