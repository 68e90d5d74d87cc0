"""Batch by batch, statistics of channels are those of all features at once."""

from __future__ import annotations

import torch

from fewstep.distill.channel_statistics import ChannelStatistics


def test_parts_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 5, 2, 3, 4, generator=generator) * torch.tensor([1, 10, 1e-3, 1, 1]).view(1, 5, 1, 1, 1)
    features[:, 3] += 1e4  # a mean that drowns its deviation
    statistics = ChannelStatistics()
    assert statistics.num_channels == 0
    for part in features.split([1, 3, 1, 2]):
        statistics.add(part)
    std, mean = torch.std_mean(features.double(), dim=(0, 2, 3, 4))
    assert statistics.num_channels == 5 and statistics.count == 7 * 2 * 3 * 4
    torch.testing.assert_close(statistics.mean, mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(statistics.std, std, rtol=1e-4, atol=1e-7)


def test_one_value_has_no_deviation() -> None:
    statistics = ChannelStatistics()
    statistics.add(torch.full((1, 2, 1, 1, 1), 3.0))
    assert statistics.mean.tolist() == [3.0, 3.0] and statistics.std.tolist() == [0.0, 0.0]
