"""A loss through a frozen network that sees clips of both decoders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fewstep.distill.decoder.recipe import FeatureLoss
from fewstep.teacher.base import Teacher
from fewstep.teacher.shapes.judge import load_judge
from fewstep.teacher.shapes.world import WORLD_FRAMES, WORLD_SIDE
from fewstep.teacher.source import VideoSize, size_text

_JUDGED = VideoSize(WORLD_FRAMES, WORLD_SIDE, WORLD_SIDE)
Features = Callable[[Tensor], Tensor]  # of clips (B, 3, F, H, W) in -1..1


def check_features(settings: FeatureLoss, sizes: Sequence[VideoSize]) -> None:
    """Raises ValueError when the network that the settings name cannot see clips of all sizes."""
    if settings.weight and settings.network == "judge" and any(size != _JUDGED for size in sizes):
        raise ValueError(
            f"decoder.features.network judge: it takes clips of {size_text(_JUDGED)}, and these are "
            f"{', '.join(map(size_text, sizes))}: take encoder, or set decoder.features.weight to 0"
        )


def loss_features(settings: FeatureLoss, teacher: Teacher) -> Features:
    """The network that the settings name, with gradients to clips alone."""
    if settings.network == "encoder":
        return teacher.encode
    judge = load_judge(device=str(teacher.device)).requires_grad_(False)
    return lambda video: judge(video)[1]


def feature_distance(features: Features, made: Tensor, video: Tensor) -> Tensor:
    """Mean absolute difference of features of two batches of clips (B, 3, F, H, W), with gradients to the first."""
    with torch.no_grad():
        seen = features(video)
    return (features(made) - seen).abs().mean()
