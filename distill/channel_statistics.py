"""Mean and standard deviation of features' channels, without keeping the features."""

from __future__ import annotations

import torch
from torch import Tensor


class ChannelStatistics:
    """Of each channel over all features (B, channels, F, h, w) that are added, batch by batch (Chan et al., 1979).

    Features of a video model take gigabytes for a few clips; this takes two numbers a channel.
    """

    def __init__(self) -> None:
        self.count = 0  # of values in a channel
        self.mean = self._squares = torch.zeros(0, dtype=torch.float64)  # (channels,), on the CPU

    @property
    def num_channels(self) -> int:
        """0 until something is added."""
        return len(self.mean)

    @property
    def std(self) -> Tensor:
        """(channels,), float64 on the CPU."""
        return (self._squares / max(1, self.count - 1)).sqrt()

    @torch.no_grad()
    def add(self, features: Tensor) -> None:
        """Takes features (B, channels, F, h, w) in, of the same channels each time."""
        count = features.numel() // features.shape[1]
        variance, mean = torch.var_mean(features.float(), dim=(0, 2, 3, 4), correction=0)
        mean, squares = mean.cpu().double(), variance.cpu().double() * count
        if self.count == 0:
            self.count, self.mean, self._squares = count, mean, squares
            return
        total, apart = self.count + count, mean - self.mean
        self._squares = self._squares + squares + apart.square() * (self.count * count / total)
        self.mean = self.mean + apart * (count / total)
        self.count = total
