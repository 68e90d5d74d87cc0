"""Bootstrap intervals of means and ratios."""

from __future__ import annotations

import pytest
import torch

from fewstep.eval.metrics.clips import mean_interval, ratio_interval


def test_intervals_cover_the_truth() -> None:
    generator, covered = torch.Generator().manual_seed(0), [0, 0]
    for _ in range(200):
        teacher = torch.rand(60, generator=generator) + 0.5
        own = teacher * (0.6 + 0.2 * torch.rand(60, generator=generator))  # 0.7 of it on average
        for i, (interval, truth) in enumerate(((mean_interval(own), 0.7), (ratio_interval(own, teacher), 0.7))):
            covered[i] += interval.low <= truth <= interval.high
    assert all(0.9 <= count / 200 <= 0.98 for count in covered), covered


def test_a_ratio_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no ratio"):
        ratio_interval(torch.ones(3), torch.zeros(3))
