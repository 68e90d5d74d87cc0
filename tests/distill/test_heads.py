"""From features to a logit: what a head sees, and what it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewstep.distill.channel_statistics import ChannelStatistics
from fewstep.distill.heads import Head, Norm


def test_heads_see_time_unless_temporal_is_off() -> None:
    """Without it, frames in any order are the same to a head."""
    torch.manual_seed(0)
    features, order = torch.randn(2, 24, 4, 3, 3), [2, 0, 3, 1]
    for temporal in (True, False):
        head = Head(24, 1, 8, temporal)
        same = torch.allclose(head(features), head(features[:, :, order]), atol=1e-6)
        assert same is not temporal


def statistics_of(features: Tensor) -> ChannelStatistics:
    statistics = ChannelStatistics()
    statistics.add(features)
    return statistics


def test_heads_learn_from_tokens_laid_out_as_transformers_do() -> None:
    """Channels-last and without gradient: torch 2.13 ends the process there."""
    features = torch.randn(2, 8, 24).unflatten(1, (2, 2, 2)).movedim(-1, 1)
    head = Head(24, 1, 8, temporal=True)
    head(features).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("norm", ["channel", "group"])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e4])
def test_logits_start_near_0_at_any_scale_of_features(scale: float, norm: Norm) -> None:
    torch.manual_seed(0)
    features = scale * torch.randn(16, 48, 3, 4, 4)
    features[:, 5] *= 1000  # one channel of a transformer may drown all others: it spoils its own group only
    head = Head(24, 2, 64, True, norm)
    head.standardise([statistics_of(read) for read in features.chunk(2, dim=1)])
    logits = head(features).detach()
    assert 1e-4 < float(logits.std()) < 0.1
    assert float(logits.abs().max()) < 0.2


@pytest.mark.parametrize(("norm", "sees"), [("channel", True), ("group", False)])
def test_only_heads_without_groups_see_how_strong_a_clip_is(norm: Norm, sees: bool) -> None:
    """A norm per clip takes its contrast away."""
    torch.manual_seed(0)
    features = torch.randn(4, 16, 3, 4, 4)
    head = Head(16, 1, 8, True, norm)
    head.standardise([statistics_of(features)])
    assert torch.allclose(head(features), head(2 * features), atol=1e-4) is not sees


def test_a_silent_channel_does_not_drown_the_others() -> None:
    features = torch.randn(4, 16, 3, 4, 4)
    features[:, 3] = 7.0
    head = Head(16, 1, 8, True)
    head.standardise([statistics_of(features)])
    features[:, 3] += 0.01
    assert float(head.layers[0](features).abs().max()) < 10
