"""What a metric sees and what it answers: a batch of clips in, a row of numbers per clip and figures out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from fewstep.eval.metrics.frechet import Interval, middle_95

Figures = dict[str, dict[str, Any]]  # as rows of results.json have them: name -> value, low, high, num, unit, better

DRAWS = 1000  # of a bootstrap


@dataclass(frozen=True)
class Clips:
    """Clips of one model, and those of the teacher from the same noise."""

    videos: Tensor  # (B, 3, F, H, W) in -1..1
    latents: Tensor  # (B, C, f, h, w)
    finite: Tensor  # (B,), whether the model made nothing but finite numbers; others are 0 in videos and latents
    prompts: Sequence[str]  # B
    teacher: Clips | None = None

    @staticmethod
    def of(videos: Tensor, latents: Tensor, prompts: Sequence[str], teacher: Clips | None = None) -> Clips:
        """As people see them: videos cut to -1..1."""
        finite = videos.flatten(1).isfinite().all(1) & latents.flatten(1).isfinite().all(1)
        shown = videos.nan_to_num(0, 0, 0).clamp(-1, 1)
        return Clips(shown, latents.nan_to_num(0, 0, 0), finite, prompts, teacher)


class Metric(ABC):
    """Per-clip numbers are kept on disk, so an evaluation goes on where it stopped; figures come from them alone."""

    name: str
    paired: Literal["", "videos", "latents"] = ""  # what of the teacher's clips of the same noise is needed
    seeds = 1  # clips of one prompt that are measured together, as one row

    def protocol(self) -> dict[str, Any]:
        """All that makes its figures comparable, as JSON."""
        return {}

    @abstractmethod
    def measure(self, clips: Clips) -> Tensor:
        """A row of numbers for each clip (or for each prompt, where `seeds` is above 1): (B, ...)."""

    @abstractmethod
    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        """Figures of all rows of a model, beside those of the teacher; None for the teacher itself."""

    def difference(self, own: Tensor, other: Tensor) -> Figures:
        """Figures of a model less those of another one, row i of both from one prompt and noise.

        Without any where none are made. A figure of shares says in `differing` on how many clips the two differ.
        """
        return {}


def figure(interval: Interval, num: int, unit: str = "", better: str = "") -> dict[str, Any]:
    """A figure as rows of results.json have it."""
    said = {key: value for key, value in (("unit", unit), ("better", better)) if value}
    return {"value": interval.value, "low": interval.low, "high": interval.high, "num": num} | said


def mean_interval(values: Tensor) -> Interval:
    """The mean of values (N,) and its 95 % interval, by a bootstrap over clips."""
    return ratio_interval(values, torch.ones_like(values))


def ratio_interval(own: Tensor, teacher: Tensor) -> Interval:
    """Sum of own (N,) over sum of teacher (N,), clip i of both from one prompt; 95 % by a bootstrap over clips.

    Raises ValueError when the teacher's sum is 0, of which nothing is a multiple.
    """
    own, teacher = own.double(), teacher.double()
    if not teacher.sum() > 0:
        raise ValueError("the teacher's own figure is 0: there is no ratio to it")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(own), (DRAWS, len(own)), generator=generator)
    ratios = own[drawn].sum(1) / teacher[drawn].sum(1).clamp_min(1e-12)
    return Interval(float(own.sum() / teacher.sum()), *middle_95(ratios))
