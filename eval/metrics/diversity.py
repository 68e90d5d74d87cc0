"""Whether different noise gives different clips: distances among the clips of one prompt."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure, mean_interval, ratio_interval


class Diversity(Metric):
    """The mean distance over all pairs of clips of a prompt, then over prompts; NAME-ratio is over the teacher's."""

    def __init__(self, name: str, distance: Callable[[Tensor, Tensor], Tensor], seeds: int, **protocol: Any) -> None:
        """`distance` takes two batches of videos (B, 3, F, H, W) in -1..1 and gives (B,). Raises ValueError below two
        clips of a prompt."""
        if seeds < 2:
            raise ValueError(f"{name} compares clips of one prompt with each other, so seeds is 2 or more, not {seeds}")
        super().__init__(name)
        self.seeds = seeds
        self._distance, self._protocol = distance, protocol | {"seeds_per_prompt": seeds}

    def protocol(self) -> dict[str, Any]:
        return self._protocol

    def measure(self, clips: Clips) -> Tensor:
        """(B / seeds,); clips of one prompt must be consecutive."""
        per_prompt = clips.videos.unflatten(0, (-1, self.seeds))
        pairs = combinations(range(self.seeds), 2)
        return torch.stack([self._distance(per_prompt[:, i], per_prompt[:, j]) for i, j in pairs]).mean(0)

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        metrics = {self.name: figure(mean_interval(own), len(own))}
        if teacher is not None and teacher.sum() > 0:
            metrics[f"{self.name}-ratio"] = figure(ratio_interval(own, teacher), len(own), "x the teacher's")
        return metrics


def mean_of_pairs(features: Tensor) -> Tensor:
    """The mean Euclidean distance over all pairs of a prompt's clips (P,), of their features (P, S, D).

    Raises ValueError below two clips of a prompt.
    """
    if features.ndim != 3 or features.shape[1] < 2:
        raise ValueError(f"features have shape {tuple(features.shape)}; they must be (P, S, D) with S at least 2")
    return torch.stack([torch.pdist(clips) for clips in features.double()]).mean(1)


def rms(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference of all pixels (B,), of a range of 1; needs no weights."""
    return (first - second).square().flatten(1).mean(1).sqrt() / 2
