"""Motion, flicker, colour and emptiness of clips whose values are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewstep.eval.alarms import alarms
from fewstep.eval.metrics.clip_statistics import Blank, Broken, Contrast, Flicker, Motion, Saturation
from fewstep.eval.metrics.clips import Clips, Metric

LOOKS = (Motion(), Flicker(), Saturation(), Contrast())


def videos(count: int = 4) -> Tensor:
    return torch.rand(count, 3, 6, 8, 8, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def value(metric: Metric, own: Tensor, teacher: Tensor | None = None, ratio: bool = False) -> float:
    metrics = metric.figures(*(None if v is None else metric.measure(clips(v)) for v in (own, teacher)))  # type: ignore[arg-type]
    figure = metrics[f"{metric.name}-ratio" if ratio else metric.name]
    assert figure["low"] <= figure["value"] <= figure["high"] and figure["num"] == len(own)
    return float(figure["value"])


def clips(videos: Tensor) -> Clips:
    return Clips.of(videos, videos, ["a ring"] * len(videos))


def test_a_clip_beside_itself_has_ratio_1_and_no_warning() -> None:
    own = videos()
    assert all(value(m, own, own, ratio=True) == 1 for m in LOOKS)
    rows = [m.figures(m.measure(clips(own)), m.measure(clips(own))) for m in LOOKS]
    assert alarms({name: figure for row in rows for name, figure in row.items()}) == []


def test_a_frozen_clip_has_no_motion_and_is_called_static() -> None:
    frozen = videos()[:, :, :1].expand_as(videos())
    assert value(Motion(), frozen) == 0 and value(Motion(), frozen, videos(), ratio=True) == 0
    metrics = Motion().figures(Motion().measure(clips(frozen)), Motion().measure(clips(videos())))
    assert alarms(metrics) == ["moves only 0% as much as the teacher: it may have become static"]
    assert "motion-ratio" not in Motion().figures(*(Motion().measure(clips(frozen)),) * 2)  # of a static teacher


def test_a_steady_ramp_moves_and_does_not_flicker() -> None:
    ramp = torch.linspace(-1, 1, 6).view(1, 1, 6, 1, 1).expand(2, 3, 6, 8, 8)
    assert value(Motion(), ramp) == pytest.approx(0.2) and value(Flicker(), ramp) == pytest.approx(0, abs=1e-6)
    blinking = torch.tensor([-1.0, 1.0]).repeat(3).view(1, 1, 6, 1, 1).expand(2, 3, 6, 8, 8)
    assert value(Motion(), blinking) == 1 and value(Flicker(), blinking) == 2
    assert value(Motion(), ramp[:, :, :1]) == value(Flicker(), ramp[:, :, :2]) == value(Flicker(), ramp[:, :, :1]) == 0


def test_colour_and_contrast() -> None:
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1, 1).expand(2, 3, 6, 8, 8)
    halves = torch.ones(2, 3, 6, 8, 8)
    halves[..., 4:] = -1
    assert value(Saturation(), red) == 1 and value(Saturation(), halves) == 0
    assert value(Contrast(), red) == pytest.approx(0, abs=1e-6) and value(Contrast(), halves) == pytest.approx(0.5)
    assert value(Blank(), red) == 1 and value(Blank(), halves) == 0
    vivid = (1.5 * videos()).clamp(-1, 1)
    metrics = Saturation().figures(Saturation().measure(clips(vivid)), Saturation().measure(clips(videos())))
    assert "over-saturated" in alarms(metrics)[0]


def test_clips_that_are_not_finite_are_told_and_shown_as_grey() -> None:
    broken = videos()
    broken[1, 0, 0, 0, 0] = float("nan")
    assert value(Broken(), broken) == 0.25 and clips(broken).videos.isfinite().all()
    assert alarms(Broken().figures(Broken().measure(clips(broken)), None))[0].startswith("25.0% of its clips")
