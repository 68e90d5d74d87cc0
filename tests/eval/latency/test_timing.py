"""Timing by a clock that only the models move: every second is booked where it belongs, and the models take turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor_config

from fewstep.eval.latency.peak_memory import Peak
from fewstep.eval.latency.timing import FAILURES, Seconds, TimedModel, latency, one_sentence, rounds


class FakeModel:
    """A sampler whose parts take a known time; `noise` is in no part. It fails at the pass of this number."""

    def __init__(self, clock: list[float], noise: float = 0.0, denoise: float = 4.0, fails_at: int = 0) -> None:
        self.clock, self.costs, self.fails_at, self.passes = clock, (noise, denoise), fails_at, 0
        self.teacher = self

    def _take(self, seconds: float) -> None:
        self.clock[0] += seconds

    def noise(self, seeds: range) -> range:
        self.passes += 1
        if self.passes == self.fails_at:
            raise RuntimeError("out of memory:\n  tried to allocate 80 GiB")
        self._take(self.costs[0])
        return seeds

    def conditions_of_any(self, prompts: list[str]) -> list[str]:
        self._take(1.0)
        return prompts

    def sample(self, z: range, conditions: Any) -> Any:
        assert conditions == "ready" or len(z) == len(conditions)
        self._take(self.costs[1] + self.passes)
        return z

    def decode(self, latents: Any) -> None:
        self._take(2.0)


class FakeMemory:
    """Says that whoever is watched took as many GiB as it is the n-th to be watched."""

    def __init__(self) -> None:
        self.watched: list[object] = []

    @contextmanager
    def watching(self, sampler: object, watched: bool) -> Iterator[Peak]:
        peak = Peak()
        yield peak
        if watched:
            self.watched.append(sampler)
            peak.gib = float(len(self.watched))


def measure(clock: list[float], models: list[TimedModel], repetitions: int, warmup: int, batch: int = 1) -> list[str]:
    """The names in the order in which the models were asked."""
    order: list[str] = []
    memory: Any = FakeMemory()
    done = list(rounds(models, batch, repetitions, warmup, lambda: clock[0], memory, order.append))
    assert done == list(range(1, repetitions + 1))
    return order


def timed(name: str, model: Any, **more: Any) -> TimedModel:
    return TimedModel(name, model, **more)


def test_every_second_is_booked_once() -> None:
    clock = [100.0]
    models = [timed("teacher", FakeModel(clock)), timed("student", FakeModel(clock, denoise=0.0))]
    order = measure(clock, models, repetitions=3, warmup=2, batch=2)
    assert order == ["teacher", "student"] * 5
    assert models[0].seconds == [Seconds(1.0, 4.0 + n, 2.0, 7.0 + n) for n in (3, 4, 5)]  # passes 1 and 2 warm up
    assert models[1].seconds == [Seconds(1.0, n, 2.0, 3.0 + n) for n in (3, 4, 5)]
    assert [model.peak_gib for model in models] == [1.0, 2.0]


def test_percentiles_and_what_the_split_misses() -> None:
    row = latency([Seconds(1.0, float(n), 2.0, n + 3.5) for n in range(1, 22)])
    assert (row["denoise_seconds"], row["denoise_seconds_p95"]) == (11.0, 20.0)
    assert (row["text_seconds"], row["total_seconds"]) == (1.0, 14.5)
    assert row["split_gap"] == pytest.approx(0.5 / 14.5)


def test_what_is_in_no_part_shows_as_a_gap() -> None:
    clock = [0.0]
    model = timed("teacher", FakeModel(clock, noise=10.0))
    measure(clock, [model], repetitions=1, warmup=1)
    assert latency(model.seconds)["split_gap"] == pytest.approx(10 / 19)


def test_a_text_encoder_that_is_left_out_has_no_time() -> None:
    clock = [0.0]
    ready: Any = "ready"
    model = timed("teacher", FakeModel(clock), conditions=ready)
    measure(clock, [model], repetitions=2, warmup=1)
    row = latency(model.seconds)
    assert row["text_seconds"] is None and row["text_seconds_p95"] is None
    assert row["total_seconds"] == row["denoise_seconds"] + 2.0 and row["split_gap"] == 0.0


@pytest.mark.parametrize("fails_at", [1, 3])
def test_a_model_that_fails_is_left_out_and_the_others_go_on(fails_at: int) -> None:
    clock = [0.0]
    models = [timed("bad", FakeModel(clock, fails_at=fails_at)), timed("good", FakeModel(clock))]
    order = measure(clock, models, repetitions=3, warmup=1)
    assert order.count("bad") == fails_at and order.count("good") == 4
    assert models[0].failure == "out of memory:" and len(models[1].seconds) == 3


def test_an_error_becomes_a_sentence() -> None:
    assert one_sentence(RuntimeError("\n  first\nsecond")) == "first"
    assert one_sentence(RuntimeError()) == "RuntimeError"


class Doubling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.tanh() * 2


def test_a_missing_compiler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inductor_config.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setattr(inductor_config, "force_disable_caches", True)
    network = Doubling()
    network.compile(dynamic=False)
    with pytest.raises(FAILURES) as error:
        network(torch.ones(1, 2))
    assert one_sentence(error.value).startswith("torch.compile found no C++ compiler: install g++ or clang")
