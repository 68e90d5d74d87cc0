"""Ways to run a denoiser faster that change no step: compilation, another attention kernel, quantised weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fewstep.eval.peak_memory import denoisers
from fewstep.student.eight_bits import torchao_quantization
from fewstep.student.sampler import Sampler

Quantise = Literal["int8", "fp8"]


@dataclass(frozen=True)
class Tuning:
    """What is done to every denoiser; `attention` is a name of diffusers' attention backends."""

    compile: bool = False
    attention: str | None = None
    quantise: Quantise | None = None


def tune(samplers: Sequence[Sampler], tuning: Tuning) -> None:
    """Changes the samplers' denoisers in place, once each, though several samplers may ask one of them.

    Raises ValueError when a backend is unknown or torchao is missing. What only shows when a network runs, such as a
    missing compiler, is raised then.
    """
    for network in dict.fromkeys(network for sampler in samplers for network in denoisers(sampler)):
        if tuning.quantise is not None:
            _quantise(network, tuning.quantise)
        if tuning.attention is not None:
            _set_attention(network, tuning.attention)
        if tuning.compile:
            network.compile(dynamic=False)


def check_tuning(tuning: Tuning) -> None:
    """Raises ValueError when the library that quantises is missing or broken; nothing need be loaded for it."""
    if tuning.quantise is not None:
        _torchao()


def check_attention(samplers: Sequence[Sampler], tuning: Tuning) -> None:
    """Raises ValueError when a denoiser has no such attention backend; outlines will do, whose networks are changed."""
    if tuning.attention is not None:
        tune(samplers, Tuning(attention=tuning.attention))


def _set_attention(network: Any, backend: str) -> None:
    try:
        network.set_attention_backend(backend)
    except (ValueError, RuntimeError, ImportError, AttributeError) as error:
        raise ValueError(f"{type(network).__name__} has no attention backend {backend} here: {error}") from error


def _quantise(network: nn.Module, to: Quantise) -> None:
    """Weights of all linear layers; they are turned back into the network's dtype where they are used."""
    torchao = _torchao()
    torchao.quantize_(network, torchao.Int8WeightOnlyConfig() if to == "int8" else torchao.Float8WeightOnlyConfig())


def _torchao() -> Any:
    return torchao_quantization("quantised weights")
