"""How far a student's clip is from the teacher's clip of the same noise: PSNR, SSIM, latent and temporal errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure, mean_interval

MAX_PSNR = 100.0  # dB; what identical clips get instead of infinity
_FRAMES_AT_ONCE = 16


@dataclass(frozen=True)
class TeacherGap(Metric):
    """A distance or likeness of paired clips; its figure is the mean over clips."""

    name: str
    unit: str
    better: str
    per_clip: Callable[[Clips, Clips], Tensor]  # own, teacher -> (B,)
    paired: Literal["", "videos", "latents"] = "videos"

    def measure(self, clips: Clips) -> Tensor:
        assert clips.teacher is not None
        return self.per_clip(clips, clips.teacher)

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        return {self.name: figure(mean_interval(own), len(own), self.unit, self.better)}


def psnr(own: Clips, teacher: Clips) -> Tensor:
    """Peak signal-to-noise ratio of each clip (B,) in dB, over all its pixels; at most MAX_PSNR."""
    found = peak_signal_noise_ratio(own.videos, teacher.videos, (-1.0, 1.0), reduction="none", dim=(1, 2, 3, 4))
    return found.clamp_max(MAX_PSNR)


def ssim(own: Clips, teacher: Clips) -> Tensor:
    """Structural similarity (Gaussian window of 11 pixels), the mean over frames of each clip (B,)."""
    return torch.stack([_ssim(*pair) for pair in zip(own.videos, teacher.videos, strict=True)])


def latent_mse(own: Clips, teacher: Clips) -> Tensor:
    """Mean squared error of normalised latents (B,): both of unit variance where the clips are typical."""
    return (own.latents - teacher.latents).square().flatten(1).mean(1)


def temporal_error(own: Clips, teacher: Clips) -> Tensor:
    """Mean squared error of the differences of neighbouring frames (B,), in squares of the range -1..1."""
    return (own.videos - teacher.videos).diff(dim=2).square().flatten(1).mean(1)


def _ssim(own: Tensor, teacher: Tensor) -> Tensor:
    """Of one clip (3, F, H, W), some frames at a time: the windows' statistics take five times their memory."""
    pairs = zip(*(video.transpose(0, 1).split(_FRAMES_AT_ONCE) for video in (own, teacher)), strict=True)
    each = [structural_similarity_index_measure(a, b, reduction="none", data_range=(-1.0, 1.0)) for a, b in pairs]
    return torch.cat([torch.as_tensor(part).reshape(-1) for part in each]).mean()


PSNR = TeacherGap("psnr", "dB", "higher", psnr)
SSIM = TeacherGap("ssim", "", "higher", ssim)
LATENT_MSE = TeacherGap("latent-mse", "", "lower", latent_mse, paired="latents")
TEMPORAL_ERROR = TeacherGap("temporal-error", "", "lower", temporal_error)
