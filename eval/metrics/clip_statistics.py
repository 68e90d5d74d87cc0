"""What a clip looks like by itself: motion, flicker, saturation, contrast. Compared with the teacher's they show
collapse.

Distances to a reference and VBench reward smooth, vivid clips, and so hide a student that freezes or burns out.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure, mean_interval, ratio_interval, wilson

BLANK = 0.01  # contrast of a clip that shows nothing


class ClipStatistic(Metric):
    """A number per clip. Figures are its mean, and as NAME-ratio its mean divided by the teacher's."""

    unit: str

    @staticmethod
    @abstractmethod
    def per_clip(videos: Tensor) -> Tensor:
        """Videos (B, 3, F, H, W) in -1..1 -> (B,)."""

    def measure(self, clips: Clips) -> Tensor:
        return self.per_clip(clips.videos)

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        metrics = {self.name: figure(mean_interval(own), len(own), self.unit)}
        if teacher is not None and teacher.sum() > 0:
            metrics[f"{self.name}-ratio"] = figure(ratio_interval(own, teacher), len(own), "x the teacher's")
        return metrics


class Blank(Metric):
    """The share of clips that show nothing: their contrast is below 0.01."""

    name = "blank"

    def measure(self, clips: Clips) -> Tensor:
        return (contrast(clips.videos) < BLANK).float()

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        return {self.name: figure(wilson(int(own.sum()), len(own)), len(own), "share of clips", "lower")}


class Broken(Metric):
    """The share of clips that hold infinities or NaN; other metrics see grey in their place."""

    name = "broken"

    def measure(self, clips: Clips) -> Tensor:
        return (~clips.finite).float()

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        return {self.name: figure(wilson(int(own.sum()), len(own)), len(own), "share of clips", "lower")}


def motion(videos: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring frames (B,), of a range of 1; no optical flow: a paler clip has less."""
    return _mean_size(videos.diff(dim=2))


def flicker(videos: Tensor) -> Tensor:
    """Mean absolute second difference of each pixel over time (B,), of a range of 1: what steady motion lacks."""
    return _mean_size(videos.diff(dim=2).diff(dim=2))


def saturation(videos: Tensor) -> Tensor:
    """Mean of each pixel's strongest minus its weakest colour (B,), in 0..1: 0 is grey, 1 a pure colour."""
    return (videos.amax(1) - videos.amin(1)).flatten(1).mean(1) / 2


def contrast(videos: Tensor) -> Tensor:
    """Standard deviation of the brightness (Rec. 601) of all pixels of a clip (B,), of a range of 1."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=videos.device)
    return torch.einsum("bcfhw,c->bfhw", videos, weights).flatten(1).std(1, correction=0) / 2


def _mean_size(differences: Tensor) -> Tensor:
    """0 for clips too short to have any."""
    return differences.abs().flatten(1).mean(1).nan_to_num() / 2


class Motion(ClipStatistic):
    """How much clips move."""

    name, unit, per_clip = "motion", "of the range, per frame", staticmethod(motion)


class Flicker(ClipStatistic):
    """How unsteadily pixels change."""

    name, unit, per_clip = "flicker", "of the range, per frame", staticmethod(flicker)


class Saturation(ClipStatistic):
    """How colourful clips are."""

    name, unit, per_clip = "saturation", "of the range", staticmethod(saturation)


class Contrast(ClipStatistic):
    """How much their brightness varies."""

    name, unit, per_clip = "contrast", "of the range", staticmethod(contrast)
