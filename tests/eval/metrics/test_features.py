"""One interface for all feature networks, and the figures that their features give."""

from __future__ import annotations

import json

import pytest
import torch

from fewstep.eval.metrics.features import distance_figures, open_features
from fewstep.eval.metrics.shapes import ShapesJudgement
from fewstep.teacher.shapes.judge import batch, judge_sha256


def test_shapes_fd_has_the_features_of_the_judgement() -> None:
    videos = batch("held-out", 5, range(4))[0]
    judgement, network = ShapesJudgement(), open_features("shapes-fd")
    judgement.update(videos, ["a clip"] * 4)
    assert torch.equal(network.features(videos), judgement.features())
    protocol = network.protocol()
    assert protocol["weights_sha256"] == judge_sha256() and protocol["dimensions"] == judgement.features().shape[1]
    assert json.loads(json.dumps(protocol)) == protocol
    with pytest.raises(ValueError, match="knows the shapes world only"):
        network.features(videos[:, :, : network.min_frames - 1])


def test_unknown_distances_and_needless_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no distance fid: choose among shapes-fd, fvd"):
        open_features("fid")
    with pytest.raises(ValueError, match="takes the embedded judge"):
        open_features("shapes-fd", "weights.safetensors")


def test_figures_have_intervals_and_leave_out_what_cannot_be_told() -> None:
    generator = torch.Generator().manual_seed(0)
    samples, reference = torch.randn(64, 8, generator=generator) + 0.5, torch.randn(96, 8, generator=generator)
    metrics = distance_figures("fvd", samples, reference)
    assert list(metrics) == ["fvd", "fvd-extrapolated", "fvd-kernel"]
    for figure in metrics.values():
        assert figure["low"] <= figure["value"] <= figure["high"]
        assert figure["num"] == 64 and figure["better"] == "lower"
    assert metrics["fvd-extrapolated"]["value"] < metrics["fvd"]["value"]
    again = distance_figures("fvd", samples, reference)
    for name, figure in metrics.items():
        for key in ("value", "low", "high"):  # the last digits depend on how LAPACK finds memory aligned
            assert again[name][key] == pytest.approx(figure[key], rel=1e-10)
    assert list(distance_figures("fvd", samples[:20], reference)) == ["fvd", "fvd-kernel"]
