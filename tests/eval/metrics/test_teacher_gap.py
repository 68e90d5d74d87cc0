"""Paired metrics against torchmetrics and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from fewstep.eval.metrics.clips import Clips
from fewstep.eval.metrics.teacher_gap import MAX_PSNR, PSNR, SSIM, LatentMSE, TeacherGap, TemporalError


def videos(seed: int, frames: int = 5) -> Tensor:
    return torch.rand(3, 3, frames, 16, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pair(own: Tensor, teacher: Tensor) -> Clips:
    prompts = ["a ring"] * len(own)
    return Clips.of(own, own[:, :1], prompts, Clips.of(teacher, teacher[:, :1], prompts))


@pytest.mark.parametrize(
    ("metric", "perfect"), [(PSNR(), MAX_PSNR), (SSIM(), 1), (LatentMSE(), 0), (TemporalError(), 0)]
)
def test_identical_clips(metric: TeacherGap, perfect: float) -> None:
    metrics = metric.figures(metric.measure(pair(videos(0), videos(0))), None)[metric.name]
    assert (metrics["value"], metrics["low"], metrics["high"]) == pytest.approx((perfect,) * 3, abs=1e-6)


def test_equal_to_torchmetrics_clip_by_clip() -> None:
    own, teacher = videos(0, frames=20), videos(1, frames=20)
    clips = pair(own, teacher)
    for i in range(len(own)):
        frames = [video[i].transpose(0, 1) for video in (own, teacher)]
        psnr = PeakSignalNoiseRatio(data_range=(-1.0, 1.0))(*frames)
        ssim = StructuralSimilarityIndexMeasure(data_range=1.0)(*(frame / 2 + 0.5 for frame in frames))
        assert float(PSNR().measure(clips)[i]) == pytest.approx(float(psnr), rel=1e-5)
        assert float(SSIM().measure(clips)[i]) == pytest.approx(float(ssim), abs=1e-5)


def test_two_greys_that_differ_little_are_alike() -> None:
    """Of values around 0 the same formula says -0.85."""
    flat = torch.full((1, 3, 2, 16, 16), 0.05)
    mean, other = 0.525, 0.475
    expected = (2 * mean * other + 1e-4) / (mean**2 + other**2 + 1e-4)
    assert SSIM().measure(pair(flat, -flat)).tolist() == pytest.approx([expected], abs=1e-3)


def test_closed_forms() -> None:
    teacher = videos(0) / 2
    brighter = pair(teacher + 0.25, teacher)
    assert PSNR().measure(brighter).tolist() == pytest.approx([10 * torch.tensor(4 / 0.25**2).log10().item()] * 3)
    assert LatentMSE().measure(brighter).tolist() == pytest.approx([0.0625] * 3)
    assert TemporalError().measure(brighter).tolist() == pytest.approx([0] * 3, abs=1e-12)  # it moves alike
    still = pair(teacher[:, :, :1].expand_as(teacher), teacher)
    assert TemporalError().measure(still).tolist() == pytest.approx(
        teacher.diff(dim=2).square().mean((1, 2, 3, 4)).tolist()
    )
