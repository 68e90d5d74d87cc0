"""Figures of the same prompts and noise compared with each other: a bootstrap that takes the same clips of both.

What two models share, such as prompts that are hard for both, cancels in their difference, so its interval is
far narrower than those of the two figures. Figures are combined draw by draw, and all intervals are of 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.eval.metrics.clips import BOOTSTRAP_DRAWS
from fewstep.eval.metrics.frechet import Interval, frechet_draws, middle_95


@dataclass(frozen=True)
class Resampled:
    """A figure of N clips, and the same of resamples of them."""

    value: float
    draws: Tensor  # (B,) in float64
    drawn: tuple[int, int]  # N and the seed: figures with both alike, and as many draws, took the same clips in each

    @property
    def interval(self) -> Interval:
        """The value, with the 2.5 and the 97.5 % quantile of its draws."""
        return Interval(self.value, *middle_95(self.draws))


def distance(samples: Tensor, reference: Tensor, seed: int = 0) -> Resampled:
    """The Frechet distance of features (N, D) to those of the reference (M, D), which is never resampled.

    200 draws, moved as those of `frechet_interval`. Raises ValueError below two samples.
    """
    value, draws = frechet_draws(samples, reference, seed)
    return Resampled(value, draws, (len(samples), seed))


def mean(values: Tensor, seed: int = 0) -> Resampled:
    """The mean of values (N,), of 1000 draws. Raises ValueError without values."""
    if len(values) == 0:
        raise ValueError("there is no mean of no clips: pass at least one")
    values = values.double()
    generator = torch.Generator().manual_seed(seed)
    taken = torch.randint(len(values), (BOOTSTRAP_DRAWS, len(values)), generator=generator)
    return Resampled(float(values.mean()), values[taken].mean(1), (len(values), seed))


def difference(own: Resampled, other: Resampled) -> Resampled:
    """own - other. Raises ValueError when they are not of the same draws."""
    _check_paired(own, other)
    return Resampled(own.value - other.value, own.draws - other.draws, own.drawn)


def mean_difference(own: Tensor, other: Tensor) -> Interval:
    """The mean of own (N,) less that of other (N,), value i of both from one prompt and noise."""
    return difference(mean(own), mean(other)).interval


def ratio(own: Resampled, other: Resampled) -> Resampled:
    """own / other. Raises ValueError when they are not of the same draws, or the other figure is not above 0."""
    _check_paired(own, other)
    if not other.value > 0:
        raise ValueError(f"the other figure is {other.value:g}: there is a ratio only to one above 0")
    return Resampled(own.value / other.value, own.draws / other.draws.clamp_min(1e-12), own.drawn)


def over_seeds(figures: Sequence[Resampled], seed: int = 0) -> Resampled:
    """The mean of figures that differ only by their training seed; each draw resamples the seeds, too.

    Of S seeds such a bootstrap sees the fraction (S - 1) / S of the variance between seeds, so of two or three its
    interval is too narrow. Raises ValueError when there are none, or they are not of the same draws.
    """
    if not figures:
        raise ValueError("there is no mean over no seeds: pass the figures of at least one")
    for of_seed in figures:
        _check_paired(of_seed, figures[0])
    draws = torch.stack([of_seed.draws for of_seed in figures])  # (S, B)
    generator = torch.Generator().manual_seed(seed)
    taken = torch.randint(len(figures), draws.shape, generator=generator)
    value = sum(of_seed.value for of_seed in figures) / len(figures)
    return Resampled(value, draws.gather(0, taken).mean(0), figures[0].drawn)


def _check_paired(own: Resampled, other: Resampled) -> None:
    if own.drawn != other.drawn or own.draws.shape != other.draws.shape:
        raise ValueError(
            f"figures of {own.drawn[0]} and {other.drawn[0]} clips, seeds {own.drawn[1]} and {other.drawn[1]}, "
            f"{len(own.draws)} and {len(other.draws)} draws, cannot be paired: measure both alike"
        )
