"""Options are kept where they are faster by more than passes spread, and clips stay alike; seconds are made up."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.eval.latency import optimise
from fewstep.eval.latency.optimise import Optimiser, OptionTrial, candidates
from fewstep.eval.latency.timing import Seconds, TimedModel
from fewstep.eval.latency.tuning import Tuning
from fewstep.student.sampler import Sampler, SamplingOptions, teacher_sampler
from fewstep.teacher.load_teacher import load_teacher

SPREAD = 0.2


@pytest.fixture
def model(tiny_wan_folder: Path) -> TimedModel:
    sampler = teacher_sampler(load_teacher(tiny_wan_folder, device="cpu"), "tiny", SamplingOptions(2, 1.0))
    return TimedModel.of("tiny", sampler, batch=2)


@pytest.fixture
def tried(model: TimedModel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Tuning, list[OptionTrial]]]:
    """Tries groups of options whose passes take 4 s less what the options that are on save of that. Every other pair of
    passes is slower as a whole, and of a pair the second pass."""

    def run(groups: list[Any], saved: dict[str, float], max_error: float = 0.05) -> tuple[Tuning, list[OptionTrial]]:
        number = count()

        def timed(model: TimedModel, prompts: list[str], clock: Any) -> Seconds:
            assert len(prompts) == 2
            vae, attention = model.sampler.teacher.pipeline.vae, _backend(model.sampler)
            on = {"slicing": vae.use_slicing, "tiling": vae.use_tiling, "overlap": model.background is not None}
            seconds = 4 - sum(saved.get(name, 0.0) for name, is_on in on.items() if is_on) - saved.get(attention, 0.0)
            pair, second = divmod(next(number), 2)
            return Seconds(None, 0.0, 0.0, seconds + 10 * (pair % 2) + SPREAD / 2 * second)

        monkeypatch.setattr(optimise, "time_pass", timed)
        monkeypatch.setattr(optimise, "candidates", lambda model, batch: iter(groups))
        actual = Optimiser(model, 2, 6, lambda: 0.0, max_error).run()
        vae = model.sampler.teacher.pipeline.vae
        assert not (vae.use_slicing or vae.use_tiling or model.background) and _backend(model.sampler) == ""
        return actual

    return run


def _backend(sampler: Sampler) -> str:
    network: Any = sampler.teacher.network_at(1.0)
    processor = network.blocks[0].attn1.processor
    return "" if processor._attention_backend is None else str(processor._attention_backend.value)


def test_what_pays_is_kept_and_what_comes_after_is_tried_on_top(tried: Any) -> None:
    groups = [[("slicing", True)], [("tiling", True)], [("overlap", True)]]
    kept, actual = tried(groups, {"slicing": 1.0, "tiling": 0.5 * SPREAD, "overlap": 0.5})
    assert kept == Tuning(slicing=True, overlap=True) and kept.as_options == "--slicing --overlap"
    slicing, tiling, overlap = actual
    assert (slicing.seconds_without, slicing.seconds_with) == pytest.approx((9.05, 8.05))
    assert slicing.seconds_saved == pytest.approx(1.0)
    assert slicing.spread == pytest.approx(SPREAD)
    assert slicing.relative_error is not None and slicing.relative_error < 1e-5
    assert (tiling.kept, tiling.why) == (False, "the gain is within the spread")
    assert tiling.seconds_without == pytest.approx(8.05)  # with what was kept before
    assert overlap.why == "more clips a minute, though none comes sooner"
    text = f"--slicing: 1.12x (9.05 to 8.05 s, saved 1, spread 0.2), error {slicing.relative_error:.2g}: kept, "
    assert slicing.summary == f"{text}faster by more than the spread"


def test_of_alternatives_the_fastest_is_kept(tried: Any) -> None:
    group = [("attention", name) for name in ("_native_math", "native", "quick")]
    kept, (first, second, unknown) = tried([group], {"_native_math": 0.5, "native": 1.0})
    assert kept == Tuning(attention="native") and second.kept
    assert (first.kept, first.why) == (False, "--attention native is faster")
    assert not unknown.kept and "has no attention backend quick here" in unknown.why and unknown.seconds_with is None
    assert unknown.summary.startswith("--attention quick: left out, ")


@pytest.mark.parametrize(
    ("error", "why"), [(0.06, "its clip differs by more than 0.05"), (None, "its clip is not finite")]
)
def test_a_clip_that_differs_too_much_is_left_out(
    tried: Any, error: float | None, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimise, "likeness", lambda video, own: {"relative_error": error})
    kept, (actual,) = tried([[("tiling", True)]], {"tiling": 1.0})
    assert kept == Tuning() and actual.why == why and actual.relative_error == error


def test_what_is_slower_is_left_out(tried: Any) -> None:
    kept, (actual,) = tried([[("tiling", True)]], {"tiling": -1.0})
    assert kept == Tuning() and actual.why == "it is no faster"


def test_only_what_can_do_something_is_tried(model: TimedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for group in candidates(model, batch=2) for name, _ in group]
    assert "slicing" in names and "quantise_text" in names and "cuda_graphs" not in names
    assert "slicing" not in [name for group in candidates(model, batch=1) for name, _ in group]
    model.conditions = model.sampler.conditions_of_any(["", ""])
    assert "quantise_text" not in [name for group in candidates(model, batch=1) for name, _ in group]
    monkeypatch.setattr(type(model.sampler.teacher), "device", torch.device("cuda"))
    assert "cuda_graphs" in [name for group in candidates(model, batch=2) for name, _ in group]
