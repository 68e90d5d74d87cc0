"""How like clips are: nothing where they are equal, the figures of the difference where not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.eval.latency.likeness import Likenesses, example_clips, likeness
from fewstep.eval.latency.timing import TimedModel
from fewstep.eval.latency.tuning import Tuning, tune
from fewstep.student.sampler import Sampler, SamplingOptions, teacher_sampler
from fewstep.teacher.load_teacher import load_teacher


@pytest.fixture
def sampler(tiny_wan_folder: Path) -> Sampler:
    return teacher_sampler(load_teacher(tiny_wan_folder, device="cpu"), "tiny", SamplingOptions(2, 3.0))


def test_figures_of_a_difference() -> None:
    own = torch.full((1, 3, 2, 4, 4), 0.5)
    actual = likeness(own + 0.01, own)
    assert actual["relative_error"] == pytest.approx(0.02, rel=1e-4)
    assert actual["psnr_db"] == pytest.approx(46.02, abs=0.01)  # 10 log10(4 / 1e-4)
    assert actual["max_difference"] == pytest.approx(0.01, rel=1e-4)
    assert likeness(own, own) == {"relative_error": 0.0, "psnr_db": None, "max_difference": 0.0}
    assert likeness(own * torch.nan, own) == dict.fromkeys(actual)


def test_examples_are_the_same_at_every_call(sampler: Sampler) -> None:
    model = TimedModel.of("tiny", sampler, batch=2)
    assert torch.equal(example_clips(model, 2), example_clips(model, 2))
    without_text = TimedModel.of("tiny", sampler, batch=2, text=False)
    assert torch.equal(example_clips(without_text, 2), example_clips(model, 2))


def test_models_are_held_against_themselves(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [TimedModel.of("tuned", sampler, batch=1), TimedModel.of("broken", sampler, batch=1)]
    likenesses = Likenesses(models, batch=1)
    tune([sampler], Tuning(attention="_native_math", channels_last=True))
    models[1].sampler = None  # type: ignore[assignment]
    models[1].failure = "no memory"
    actual = likenesses.measure()
    error = actual["tuned"]["relative_error"]
    assert actual.keys() == {"tuned"} and error is not None and error < 1e-4
