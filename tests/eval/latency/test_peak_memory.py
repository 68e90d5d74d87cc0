"""Memory: what a pass takes is seen, what other models hold is taken off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.eval.latency.peak_memory import PeakMemory, weights_of
from fewstep.eval.latency.tuning import Tuning, tune
from fewstep.student.sampler import Sampler, SamplingOptions, teacher_sampler
from fewstep.teacher.limits import GIB
from fewstep.teacher.load_teacher import load_teacher

MIB = 2**20


@pytest.fixture
def sampler(tiny_wan_folder: Path) -> Sampler:
    return teacher_sampler(load_teacher(tiny_wan_folder, device="cpu"), "tiny", SamplingOptions(2, 1.0))


def test_a_passing_tensor_is_seen(sampler: Sampler) -> None:
    memory = PeakMemory([sampler], torch.device("cpu"))
    with memory.watching(sampler, watched=True) as idle:
        pass
    with memory.watching(sampler, watched=True) as busy:
        passing = torch.ones(256 * MIB, dtype=torch.uint8)
        passing += 1
        del passing
    assert busy.gib - idle.gib == pytest.approx(0.25, abs=0.05)


def test_nobody_watches_unless_asked(sampler: Sampler) -> None:
    with PeakMemory([sampler], torch.device("cpu")).watching(sampler, watched=False) as peak:
        pass
    assert peak.gib == 0.0


def test_other_models_weights_are_taken_off(sampler: Sampler, tiny_wan_folder: Path) -> None:
    other = teacher_sampler(load_teacher(tiny_wan_folder, device="cpu"), "other", SamplingOptions(2, 1.0))
    big = torch.nn.Linear(4096, 8192, bias=False)  # 128 MiB that only the other one needs
    other.teacher.pipeline.transformer.big = big
    memory = PeakMemory([sampler, other], torch.device("cpu"))
    with memory.watching(sampler, watched=True) as own:
        pass
    with memory.watching(other, watched=True) as others:
        pass
    assert others.gib - own.gib == pytest.approx(128 * MIB / GIB, abs=0.03)


def test_a_small_decoder_counts_in_place_of_the_autoencoder(sampler: Sampler) -> None:
    decoder: Any = torch.nn.Linear(8, 8, bias=False)
    small, vae = replace(sampler, decoder=decoder), sampler.teacher.pipeline.vae
    of_vae = sum(tensor.nbytes for tensor in (*vae.parameters(), *vae.buffers()))
    own, whole = sum(weights_of(small).values()), sum(weights_of(sampler).values())
    assert own == whole - of_vae + 8 * 8 * 4
    assert sum(weights_of(small, loaded=True).values()) == whole + 8 * 8 * 4


def test_shared_weights_count_once(sampler: Sampler) -> None:
    again = teacher_sampler(sampler.teacher, "again", SamplingOptions(1, 1.0))
    assert weights_of(again) == weights_of(sampler)
    modules = (sampler.teacher.pipeline.text_encoder, sampler.teacher.pipeline.vae, sampler.teacher.network_at(1.0))
    assert sum(weights_of(sampler).values()) == sum(
        tensor.nbytes for module in modules for tensor in (*module.parameters(), *module.buffers())
    )


def test_quantised_weights_count_as_they_lie_in_memory(sampler: Sampler) -> None:
    pytest.importorskip("torchao")
    network = sampler.teacher.network_at(1.0)
    before = sum(weights_of(sampler).values())
    linear = sum(m.weight.numel() for m in network.modules() if isinstance(m, torch.nn.Linear))
    tune([sampler], Tuning(quantise="int8"))
    saved = before - sum(weights_of(sampler).values())
    assert 2.5 * linear < saved < 3 * linear  # four bytes become one, and a scale per row stays
