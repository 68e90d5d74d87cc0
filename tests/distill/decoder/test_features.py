"""Losses of a small decoder through a network that sees clips."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewstep.distill.decoder.features import check_features, feature_distance, loss_features
from fewstep.distill.decoder.recipe import FeatureLoss
from fewstep.teacher.base import Teacher
from fewstep.teacher.shapes.judge import load_judge
from fewstep.teacher.source import VideoSize


def clips(size: VideoSize, count: int = 2) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_judge_gives_its_own_features_and_gradients_to_clips_alone(tiny_teacher: Teacher) -> None:
    see = loss_features(FeatureLoss(weight=1, network="judge"), tiny_teacher)
    video = clips(VideoSize(17, 64, 64))
    made = (0.9 * video).requires_grad_()
    distance = feature_distance(see, made, video)
    own = load_judge()
    assert float(distance.detach()) == pytest.approx(float((own.read(made)[1] - own.read(video)[1]).abs().mean()))
    distance.backward()
    assert made.grad is not None and float(made.grad.abs().max()) > 0


def test_the_encoder_gives_the_latents_of_clips(tiny_teacher: Teacher) -> None:
    size = tiny_teacher.default_size()
    assert size is not None
    see, video = loss_features(FeatureLoss(weight=1), tiny_teacher), clips(size)
    assert torch.equal(see(video), tiny_teacher.encode(video))
    assert float(feature_distance(see, video, video)) == 0


def test_a_judge_of_other_clips_is_refused() -> None:
    judge, other = FeatureLoss(weight=1, network="judge"), VideoSize(17, 64, 96)
    check_features(judge, [VideoSize(17, 64, 64)])
    check_features(FeatureLoss(network="judge"), [other])
    check_features(FeatureLoss(weight=1), [other])
    with pytest.raises(ValueError, match=r"judge: it takes clips of .*: take encoder"):
        check_features(judge, [other])
