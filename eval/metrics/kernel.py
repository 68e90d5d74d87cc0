"""Kernel distance between two sets of features: unbiased at any number of clips (https://arxiv.org/abs/1801.01401)."""

from __future__ import annotations

import torch
from torch import Tensor

from fewstep.eval.metrics.frechet import Interval

_BLOCK = 1024  # rows of a kernel matrix that are there at a time


def kernel_distance(samples: Tensor, reference: Tensor) -> float:
    """Squared maximum mean discrepancy of features (N, D) and (M, D) under the kernel (x.y / D + 1)^3, in float64.

    The U-statistic: its mean over all sets of clips is the true distance, whatever N and M, so that two sets of one
    kind scatter around 0 and it may be negative. Raises ValueError below three clips in either set.
    """
    return kernel_interval(samples, reference).value


def kernel_interval(samples: Tensor, reference: Tensor) -> Interval:
    """The kernel distance with a 95 % interval, which covers the true distance; a jackknife over both sets."""
    own, other = _checked(samples), _checked(reference)
    n, m = len(own), len(other)
    # row sums of the kernel matrices; within a set without the diagonal, where a clip meets itself (U-statistic)
    within, across = _row_sums(own, own) - _kernel(own, own), _row_sums(own, other)
    other_within, other_across = _row_sums(other, other) - _kernel(other, other), _row_sums(other, own)
    a, b, c = within.sum(), other_within.sum(), across.sum()
    value = a / (n * (n - 1)) + b / (m * (m - 1)) - 2 * c / (n * m)
    # the distance without sample i, and without reference clip j
    without = (a - 2 * within) / ((n - 1) * (n - 2)) - 2 * (c - across) / ((n - 1) * m)
    other_without = (b - 2 * other_within) / ((m - 1) * (m - 2)) - 2 * (c - other_across) / (n * (m - 1))
    error = (_jackknife_variance(without) + _jackknife_variance(other_without)) ** 0.5
    return Interval(float(value), float(value - 1.96 * error), float(value + 1.96 * error))


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 3:
        raise ValueError(f"features have shape {tuple(features.shape)}; they must be (N, D) with N at least 3")
    return features.double()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Of rows x_i and y_i, (N,)."""
    return ((x * y).sum(1) / x.shape[1] + 1) ** 3


def _row_sums(x: Tensor, y: Tensor) -> Tensor:
    """Sums over y of the kernel of each x, (N,)."""
    return torch.cat([((rows @ y.T / x.shape[1] + 1) ** 3).sum(1) for rows in x.split(_BLOCK)])


def _jackknife_variance(without: Tensor) -> Tensor:
    return (len(without) - 1) * (without - without.mean()).square().mean()
