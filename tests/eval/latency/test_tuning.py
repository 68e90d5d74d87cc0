"""Faster ways to run a denoiser change its numbers little or not at all, and refuse in a sentence."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry as Registry

from fewstep.eval.latency.tuning import Quantise, Tuning, check_models, check_tuning, tune
from fewstep.student.sampler import Sampler, SamplingOptions, teacher_sampler
from fewstep.teacher.load_teacher import load_teacher


@pytest.fixture
def sampler(tiny_wan_folder: Path) -> Sampler:
    return teacher_sampler(load_teacher(tiny_wan_folder, device="cpu"), "tiny", SamplingOptions(2, 3.0))


def latents(sampler: Sampler) -> torch.Tensor:
    return sampler.sample(sampler.noise([0]), sampler.conditions(["a ring"]))


@pytest.mark.parametrize(("to", "error"), [("int8", 0.05), ("fp8", 0.2)])
def test_quantised_weights_change_little(sampler: Sampler, to: Quantise, error: float) -> None:
    pytest.importorskip("torchao")
    exact = latents(sampler)
    tune([sampler, sampler], Tuning(quantise=to))  # twice the same network: once is enough
    quantised = latents(sampler)
    assert 0 < float((quantised - exact).norm() / exact.norm()) < error


def test_attention_backends_agree(sampler: Sampler) -> None:
    exact, of_all = latents(sampler), Registry.get_active_backend()
    tune([sampler], Tuning(attention="_native_math"))
    torch.testing.assert_close(latents(sampler), exact, atol=1e-4, rtol=1e-4)
    assert Registry.get_active_backend() == of_all  # other models of the process compute as before


def test_an_unknown_backend_is_refused(sampler: Sampler) -> None:
    with pytest.raises(ValueError, match="WanTransformer3DModel has no attention backend quick here"):
        tune([sampler], Tuning(attention="quick"))


def test_a_missing_torchao_names_its_extra(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(ValueError, match=r"pip install 'fewstep\[quant\]'"):
        tune([sampler], Tuning(quantise="int8"))


def test_compilation_is_asked_for(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that torch is asked: compiling takes longer than all other tests together."""
    arguments = []
    network = sampler.teacher.network_at(1.0)
    monkeypatch.setattr(type(network), "compile", lambda self, **options: arguments.append((self, options)))
    tune([sampler], Tuning(compile=True))
    assert arguments == [(network, {"dynamic": False})]


def test_only_blocks_are_compiled(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: arguments.append(self))
    tune([sampler, sampler], Tuning(compile_blocks=True))
    network: Any = sampler.teacher.network_at(1.0)
    assert arguments == list(network.blocks)


def test_quantised_encoders_change_conditions_little_and_come_back(sampler: Sampler) -> None:
    pytest.importorskip("torchao")
    exact, denoiser = sampler.conditions(["a ring"]), sampler.teacher.network_at(1.0)
    weights = dict(denoiser.named_parameters())
    (switch,) = tune([sampler], Tuning(quantise_text="int8"))
    quantised = sampler.conditions(["a ring"])
    (name,) = exact.positive.keys() & {"embeddings"} or list(exact.positive)[:1]
    error = (quantised.positive[name] - exact.positive[name]).norm() / exact.positive[name].norm()
    assert 0 < float(error) < 0.05
    assert all(parameter is weights[name] for name, parameter in denoiser.named_parameters())
    switch.off()
    assert torch.equal(sampler.conditions(["a ring"]).positive[name], exact.positive[name])


@pytest.mark.parametrize("tuning", [Tuning(channels_last=True), Tuning(slicing=True), Tuning(tiling=True)])
def test_decoders_decode_the_same(sampler: Sampler, tuning: Tuning) -> None:
    z = torch.cat([latents(sampler)] * 2)
    exact, vae = sampler.decode(z), sampler.teacher.pipeline.vae
    (switch,) = tune([sampler], tuning)
    torch.testing.assert_close(sampler.decode(z), exact, atol=1e-5, rtol=1e-4)
    assert vae.use_slicing == tuning.slicing and vae.use_tiling == tuning.tiling
    if tuning.channels_last:
        weights = [m.weight for m in vae.modules() if isinstance(m, torch.nn.Conv3d)]
        assert weights and all(w.is_contiguous(memory_format=torch.channels_last_3d) for w in weights)
    switch.off()
    assert torch.equal(sampler.decode(z), exact)


def test_what_cannot_be_tuned_is_refused(sampler: Sampler, tiny_svd_folder: Path) -> None:
    small: Any = object()
    with pytest.raises(ValueError, match="--tiling is the autoencoder's, and a small decoder decodes all clips here"):
        tune([replace(sampler, decoder=small)], Tuning(tiling=True))
    of_picture = teacher_sampler(load_teacher(tiny_svd_folder, device="cpu"), "svd", SamplingOptions(2, 1.0))
    with pytest.raises(ValueError, match="AutoencoderKLTemporalDecoder cannot do --tiling"):
        check_models([of_picture], Tuning(tiling=True))
    with pytest.raises(ValueError, match="--overlap is for clips that are made from prompts alone"):
        check_models([of_picture], Tuning(overlap=True))


MISTAKES = [
    (Tuning(compile=True, compile_blocks=True), 1, "--compile and --compile-blocks compile the same networks"),
    (Tuning(cuda_graphs=True), 1, "--cuda-graphs need a CUDA GPU, and this is cpu: use --compile or --compile-blocks"),
    (Tuning(slicing=True), 1, "--slicing decodes the clips of a batch one by one, and --batch is 1: leave it out"),
]


@pytest.mark.parametrize(("tuning", "batch", "sentence"), MISTAKES)
def test_options_that_do_not_fit_are_refused(tuning: Tuning, batch: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        check_tuning(tuning, torch.device("cpu"), batch)


def test_options_are_said_as_they_are_typed() -> None:
    assert Tuning().as_options == "" and not Tuning().compiles
    assert Tuning(cuda_graphs=True, quantise_text="int8").as_options == "--cuda-graphs --quantise-text int8"
