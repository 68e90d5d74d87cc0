"""How far a student's clip is from the teacher's clip of the same noise: PSNR, SSIM, latent and temporal errors."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure, mean_interval, teachers

MAX_PSNR = 100.0  # dB; what identical clips get instead of infinity
_FRAMES_AT_ONCE = 16


class TeacherGap(Metric):
    """A distance or likeness of paired clips; its figure is the mean over clips."""

    unit = ""
    better = "lower"
    paired: Literal["", "videos", "latents"] = "videos"

    @staticmethod
    @abstractmethod
    def per_clip(own: Clips, teacher: Clips) -> Tensor:
        """(B,)"""

    def measure(self, clips: Clips) -> Tensor:
        return self.per_clip(clips, teachers(self.name, clips))

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        return {self.name: figure(mean_interval(own), len(own), self.unit, self.better)}


def psnr(own: Clips, teacher: Clips) -> Tensor:
    """Peak signal-to-noise ratio of each clip (B,) in dB, over all its pixels; at most MAX_PSNR."""
    decibels = peak_signal_noise_ratio(own.videos, teacher.videos, (-1.0, 1.0), reduction="none", dim=(1, 2, 3, 4))
    return decibels.clamp_max(MAX_PSNR)


def ssim(own: Clips, teacher: Clips) -> Tensor:
    """Structural similarity (Gaussian window of 11 pixels), the mean over frames of each clip (B,).

    Of values 0..1: its luminance term takes means for brightness (Wang et al. 2004, equation 6), so black must be 0.
    """
    return torch.stack([_ssim(*pair) for pair in zip(own.videos, teacher.videos, strict=True)])


def latent_mse(own: Clips, teacher: Clips) -> Tensor:
    """Mean squared error of normalised latents (B,): both of unit variance where the clips are typical."""
    return (own.latents - teacher.latents).square().flatten(1).mean(1)


def temporal_error(own: Clips, teacher: Clips) -> Tensor:
    """Mean squared error of the differences of neighbouring frames (B,), in squares of the range -1..1."""
    return (own.videos - teacher.videos).diff(dim=2).square().flatten(1).mean(1)


def _ssim(own: Tensor, teacher: Tensor) -> Tensor:
    """Of one clip (3, F, H, W), some frames at a time: the windows' statistics take five times their memory."""
    shown = ((video.transpose(0, 1) / 2 + 0.5).split(_FRAMES_AT_ONCE) for video in (own, teacher))
    similarities = [
        structural_similarity_index_measure(a, b, reduction="none", data_range=(0.0, 1.0))
        for a, b in zip(*shown, strict=True)
    ]
    return torch.cat([torch.as_tensor(part).reshape(-1) for part in similarities]).mean()


class PSNR(TeacherGap):
    """Peak signal-to-noise ratio to the teacher's clips."""

    name, unit, better, per_clip = "psnr", "dB", "higher", staticmethod(psnr)


class SSIM(TeacherGap):
    """Structural similarity to the teacher's clips."""

    name, better, per_clip = "ssim", "higher", staticmethod(ssim)

    def protocol(self) -> dict[str, Any]:
        return {"values": "0 to 1"}  # versions before took them from -1 to 1, where similarity is another number


class LatentMSE(TeacherGap):
    """Squared error to the teacher's latents: `update` takes latents (B, C, F, H, W) in place of videos."""

    name, paired, per_clip = "latent-mse", "latents", staticmethod(latent_mse)


class TemporalError(TeacherGap):
    """Squared error of how pixels change, to the teacher's clips."""

    name, per_clip = "temporal-error", staticmethod(temporal_error)
