"""Diversity over seeds: none among copies, as drawn among noise."""

from __future__ import annotations

import pytest
import torch

from fewstep.eval.alarms import alarms
from fewstep.eval.metrics.clips import Clips
from fewstep.eval.metrics.diversity import Diversity, mean_of_pairs, rms


def test_copies_have_none_and_independent_clips_what_their_variance_says() -> None:
    metric = Diversity("diversity-rms", rms, seeds=4)
    drawn = torch.rand(12, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    copies = drawn[::4].repeat_interleave(4, 0)
    own, collapsed = (metric.measure(Clips.of(v, v, ["a ring"] * 12)) for v in (drawn, copies))
    assert own.tolist() == pytest.approx([(2 / 12) ** 0.5] * 3, rel=0.03)  # of two uniform numbers in 0..1
    assert collapsed.tolist() == [0, 0, 0]
    metrics = metric.figures(collapsed, own)
    assert metrics["diversity-rms"]["num"] == 3 and metrics["diversity-rms-ratio"]["value"] == 0
    assert alarms(metrics)[0].endswith("collapsed")


def test_the_mean_of_pairs_is_that_of_plain_distances() -> None:
    features = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]], [[1.0, 1.0]] * 3])
    assert mean_of_pairs(features).tolist() == pytest.approx([(5 + 4 + 3) / 3, 0])
    with pytest.raises(ValueError, match="S at least 2"):
        mean_of_pairs(features[:, :1])
