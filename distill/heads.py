"""The heads of a discriminator: from features of a video network to one logit per clip (SF-V, arXiv 2406.04324)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from fewstep.distill.channel_statistics import ChannelStatistics

Norm = Literal["channel", "group"]
GROUP_CHANNELS = 8  # at least this many per group: a feature grid of a single place must not be normalised away


class Head(nn.Module):
    """(B, reads * channels, F, h, w) features -> (B, 1): two convolutions, then the mean over time and place.

    Features of transformers differ by orders of magnitude between layers and between channels, so they are
    normalised first. `channel`: by each channel's mean and standard deviation over real clips, which `standardise`
    sets once; nothing inside is normalised, so that what is particular to a clip, such as its contrast, stays visible.
    `group`: in groups of channels per clip and read, here and after each convolution, as SDXL-Lightning has it
    (arXiv 2402.13929); such heads learn several times more slowly (LOG.md).
    """

    def __init__(self, channels: int, reads: int, width: int, temporal: bool, norm: Norm = "channel") -> None:
        super().__init__()
        # kernels over time let a head see motion; without them students may freeze (SF-V, arXiv 2406.04324)
        kernel, padding = ((3, 3, 3), (1, 1, 1)) if temporal else ((1, 3, 3), (0, 1, 1))
        grouped = norm == "group"
        self.layers = nn.Sequential(
            nn.GroupNorm(reads * _groups(channels), reads * channels) if grouped else Standardise(reads * channels),
            nn.Conv3d(reads * channels, width, kernel, padding=padding),
            nn.GroupNorm(_groups(width), width) if grouped else nn.Identity(),
            nn.SiLU(),
            nn.Conv3d(width, width, kernel, padding=padding),
            nn.GroupNorm(_groups(width), width) if grouped else nn.Identity(),
            nn.SiLU(),
        )
        if not grouped:  # nothing else keeps activations at one scale
            for layer in self.layers:
                if isinstance(layer, nn.Conv3d):
                    nn.init.kaiming_normal_(layer.weight)
                    nn.init.zeros_(cast(Tensor, layer.bias))
        self.logit = nn.Linear(width, 1)
        nn.init.normal_(self.logit.weight, std=0.1 / width**0.5)  # logits start near 0, but not without gradient
        nn.init.zeros_(self.logit.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1)."""
        # transformers' tokens come channels-last, on which torch's CPU GroupNorm crashes in backward (torch 2.13)
        logits: Tensor = self.logit(self.layers(features.contiguous()).mean(dim=(2, 3, 4)))
        return logits

    def standardise(self, reads: Sequence[ChannelStatistics]) -> None:
        """Normalises by what real clips have in each channel, of each read."""
        first = self.layers[0]
        if isinstance(first, Standardise):
            first.use(reads)


class Standardise(nn.Module):
    """Shifts and scales every channel by its mean and standard deviation over features of real clips."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Of the same shape."""
        return (features - self.mean) / self.std

    def use(self, reads: Sequence[ChannelStatistics]) -> None:
        """Takes mean and standard deviation of these channels, one read behind the other."""
        mean, std = (
            torch.cat(values).view_as(self.mean) for values in zip(*((r.mean, r.std) for r in reads), strict=True)
        )
        self.mean.copy_(mean)
        self.std.copy_(std.clamp_min(0.01 * float(std.median())).clamp_min(1e-6))  # a silent channel stays silent


def _groups(channels: int) -> int:
    """The most groups, up to 32, that divide the channels and hold GROUP_CHANNELS of them each."""
    most = max(1, min(32, channels // GROUP_CHANNELS))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)
