"""Metrics of clips for your own loop, the same as in an evaluation: `update`, `compute` and `reset`."""

from __future__ import annotations

from fewstep.eval.metrics.box_iou import BoxIoU
from fewstep.eval.metrics.clip_statistics import Blank, Broken, Contrast, Flicker, Motion, Saturation
from fewstep.eval.metrics.distance import FVD, Distance, KernelDistance
from fewstep.eval.metrics.diversity import Diversity, rms
from fewstep.eval.metrics.features import open_features
from fewstep.eval.metrics.given_frames import FramePsnr
from fewstep.eval.metrics.lpips import LPIPS, open_lpips
from fewstep.eval.metrics.prompt_accuracy import PromptAccuracy
from fewstep.eval.metrics.teacher_gap import PSNR, SSIM, LatentMSE, TemporalError

__all__ = [
    "FVD",
    "LPIPS",
    "PSNR",
    "SSIM",
    "Blank",
    "BoxIoU",
    "Broken",
    "Contrast",
    "Distance",
    "Diversity",
    "Flicker",
    "FramePsnr",
    "KernelDistance",
    "LatentMSE",
    "Motion",
    "PromptAccuracy",
    "Saturation",
    "TemporalError",
    "open_features",
    "open_lpips",
    "rms",
]
