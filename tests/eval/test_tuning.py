"""Faster ways to run a denoiser change its numbers little or not at all, and refuse in a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from fewstep.eval.tuning import Quantise, Tuning, tune
from fewstep.student.sampler import Asked, Sampler, teacher_sampler
from fewstep.teacher.base import load_teacher


@pytest.fixture
def sampler(tiny_wan_folder: Path) -> Sampler:
    return teacher_sampler(load_teacher(tiny_wan_folder, device="cpu"), "tiny", Asked(2, 3.0))


def latents(sampler: Sampler) -> torch.Tensor:
    return sampler.sample(sampler.noise([0]), sampler.conditions(["a ring"]))


@pytest.mark.parametrize(("to", "error"), [("int8", 0.05), ("fp8", 0.2)])
def test_quantised_weights_change_little(sampler: Sampler, to: Quantise, error: float) -> None:
    pytest.importorskip("torchao")
    exact = latents(sampler)
    tune([sampler, sampler], Tuning(quantise=to))  # twice the same network: once is enough
    found = latents(sampler)
    assert 0 < float((found - exact).norm() / exact.norm()) < error


def test_attention_backends_agree(sampler: Sampler) -> None:
    exact = latents(sampler)
    tune([sampler], Tuning(attention="_native_math"))
    torch.testing.assert_close(latents(sampler), exact, atol=1e-4, rtol=1e-4)


def test_an_unknown_backend_is_refused(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match="WanTransformer3DModel has no attention backend quick here"):
        tune([sampler], Tuning(attention="quick"))


def test_a_missing_torchao_names_its_extra(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r"pip install 'fewstep\[quant\]'"):
        tune([sampler], Tuning(quantise="int8"))


def test_compilation_is_asked_for(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that torch is asked: compiling takes longer than all other tests together."""
    asked = []
    network = sampler.teacher.network_at(1.0)
    monkeypatch.setattr(type(network), "compile", lambda self, **options: asked.append((self, options)))
    tune([sampler], Tuning(compile=True))
    assert asked == [(network, {"dynamic": False})]
