"""shapes-fd and prompt accuracy: real clips pass, disturbed ones do not."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import avg_pool3d, interpolate

from fewstep.eval.metrics.clips import wilson
from fewstep.eval.metrics.shapes import ShapesJudgement, held_out_prompts, judge_real
from fewstep.teacher.shapes.captions import example
from fewstep.teacher.shapes.judge import batch, load_judge

COUNT = 96


@pytest.fixture(scope="module")
def videos() -> torch.Tensor:
    return batch("held-out", 77, range(COUNT))[0]


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [example("held-out", 77, i)[1] for i in range(COUNT)]


@pytest.fixture(scope="module")
def reference() -> torch.Tensor:
    return judge_real(256, seed=78).features()


def judged(videos: torch.Tensor, prompts: list[str]) -> ShapesJudgement:
    judgement = ShapesJudgement()
    judgement.update(videos, prompts)
    return judgement


def test_real_clips_show_what_their_captions_name(videos: torch.Tensor, prompts: list[str]) -> None:
    judgement = judged(videos, prompts)
    assert judgement.accuracy().value >= 0.95 and min(judgement.accuracy_per_attribute().values()) >= 0.95


def test_real_clips_do_not_show_what_other_captions_name(videos: torch.Tensor, prompts: list[str]) -> None:
    assert judged(videos, prompts[1:] + prompts[:1]).accuracy().value < 0.3


@pytest.mark.slow
def test_blur_noise_stillness_and_lost_colour_are_far_from_real(
    videos: torch.Tensor, prompts: list[str], reference: torch.Tensor
) -> None:
    noise = torch.randn(videos.shape, generator=torch.Generator().manual_seed(0))
    worse = {
        "blur": interpolate(avg_pool3d(videos, (1, 4, 4)), scale_factor=(1, 4, 4), mode="trilinear"),
        "noise": videos + 0.1 * noise,
        "still": videos[:, :, :1].expand_as(videos),
        "grey": videos.mean(1, keepdim=True).expand_as(videos),
        "saturated": (1.5 * videos).clamp(-1, 1),
    }
    real = judged(videos, prompts).distance(reference).value
    for name, changed in worse.items():
        assert judged(changed, prompts).distance(reference).value > 1.3 * real, name


def test_the_judge_refuses_clips_of_another_size() -> None:
    with pytest.raises(ValueError, match="knows the shapes world only"):
        load_judge()(torch.zeros(1, 3, 9, 32, 32))


def test_wilson_interval() -> None:
    interval = wilson(90, 100)
    assert (interval.low, interval.high) == pytest.approx((0.8256, 0.9448), abs=1e-4)
    for count in range(1, 200):
        none, whole = wilson(0, count), wilson(count, count)
        assert none.low == 0 == none.value < none.high and whole.low < whole.value == 1 == whole.high
    with pytest.raises(ValueError, match="no clips"):
        wilson(0, 0)


def test_prompts_are_repeatable_and_differ_by_seed() -> None:
    assert held_out_prompts(5, 0) == held_out_prompts(8, 0)[:5] != held_out_prompts(5, 1)
