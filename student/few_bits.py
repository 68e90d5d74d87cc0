"""8-bit and 4-bit frozen weights under adapters that are trained: a half or a quarter of the bytes of bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from fewstep.student.few_bit_layers import NF4_BLOCK, FewBitLinear, TorchaoLinear, into_nf4
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import every_network
from fewstep.teacher.extras import extra_module
from fewstep.teacher.precision import stays_exact

EightBits = Literal["int8", "fp8"]
FewBits = Literal["int8", "fp8", "nf4"]
_CONFIGS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}

# of each weight, with nf4's scales
BASE_BITS: dict[FewBits, int] = {"int8": 8, "fp8": 8, "nf4": 4}
BASE_BYTES: dict[FewBits, float] = {"int8": 1, "fp8": 1, "nf4": 1 / 2 + 4 / NF4_BLOCK}


def torchao_quantization(wanted_for: str) -> Any:
    """torchao's module. Raises ValueError, in a sentence, where it is missing."""
    return extra_module("torchao.quantization", wanted_for, "quant")


def weight_config(kind: EightBits, wanted_for: str) -> Any:
    """torchao's settings for 8-bit weights. Raises ValueError, in a sentence, where it is missing."""
    config: Any = getattr(torchao_quantization(wanted_for), _CONFIGS[kind])
    return config(set_inductor_config=False)  # else it changes torch.compile's for the whole process


def check_base(teacher: Teacher, kind: FewBits) -> None:
    """Raises ValueError as `quantise_base`, and changes nothing."""
    _library(kind)
    chosen_layers(teacher, kind)


def block_linears(teacher: Teacher, network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers in the network's blocks, by name; under adapters, those that these stand on.

    Embeddings and the output head are few weights, and whatever the blocks do passes through them: left alone.
    """
    inside = {module for block in teacher.blocks(network) for module in block.modules()}
    return {n: m for n, m in network.named_modules() if m in inside and isinstance(m, nn.Linear)}


@torch.no_grad()
def quantise_base(teacher: Teacher, kind: FewBits) -> None:
    """Puts the weights of the denoiser's block linears into few bits, in place: of all roles that share them.

    Layers that are so already stay as they are, and so do those that diffusers keeps in float32, and for nf4 those
    whose inputs are no multiple of its block. Raises ValueError where the library is missing, or no layer is chosen.
    """
    library = _library(kind)
    for layer in chosen_layers(teacher, kind):
        if isinstance(layer, FewBitLinear):
            continue
        if kind == "nf4":
            into_nf4(layer)
        else:
            library.quantize_(layer, weight_config(kind, f"student.base={kind}"))
            layer.__class__ = TorchaoLinear
        layer.requires_grad_(False)


@contextmanager
def base_of(teacher: Teacher, kind: FewBits | None) -> Iterator[None]:
    """The denoiser's weights are as `quantise_base` makes them inside the `with` block, and as they were after it."""
    layers = [] if kind is None else chosen_layers(teacher, kind)
    weights = [layer._parameters.copy() for layer in layers]
    if kind is not None:
        quantise_base(teacher, kind)
    try:
        yield
    finally:
        for layer, parameters in zip(layers, weights, strict=True):
            layer.__class__, layer._parameters = nn.Linear, parameters


def chosen_layers(teacher: Teacher, kind: FewBits) -> list[nn.Linear]:
    """Those that `quantise_base` puts into few bits. Raises ValueError where there is none."""
    chosen: dict[int, nn.Linear] = {}
    for network in every_network(teacher.denoiser):
        for name, layer in block_linears(teacher, network).items():
            # plain linears, and those of few bits, but none that diffusers keeps in float32; shared ones count once
            plain = type(layer) is nn.Linear or isinstance(layer, FewBitLinear)
            in_blocks = kind != "nf4" or layer.in_features % NF4_BLOCK == 0
            if plain and in_blocks and not stays_exact(network, name):
                chosen[id(layer)] = layer
    if not chosen:
        kinds = {type(network).__name__ for network in every_network(teacher.denoiser)}
        inputs = f" of a multiple of {NF4_BLOCK} inputs" if kind == "nf4" else ""
        raise ValueError(
            f"student.base: {' and '.join(sorted(kinds))} has no linear layers{inputs} in its blocks that could be put "
            f"into {'four' if kind == 'nf4' else 'eight'} bits: leave it out"
        )
    return list(chosen.values())


def _library(kind: FewBits) -> Any:
    wanted_for = f"student.base={kind}"
    return extra_module("bitsandbytes", wanted_for, "nf4") if kind == "nf4" else torchao_quantization(wanted_for)
