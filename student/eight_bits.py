"""Frozen 8-bit weights by torchao, under adapters that are trained: half the bytes of bfloat16, or a quarter of
float32's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import every_network
from fewstep.teacher.extras import extra_module
from fewstep.teacher.precision import stays_exact

EightBits = Literal["int8", "fp8"]
_CONFIGS = {"int8": "Int8WeightOnlyConfig", "fp8": "Float8WeightOnlyConfig"}


def torchao_quantization(wanted_for: str) -> Any:
    """torchao's module. Raises ValueError, in a sentence, where it is missing."""
    return extra_module("torchao.quantization", wanted_for, "quant")


def weight_config(kind: EightBits, wanted_for: str) -> Any:
    """torchao's settings for weights of this many bits. Raises ValueError, in a sentence, where it is missing."""
    config: Any = getattr(torchao_quantization(wanted_for), _CONFIGS[kind])
    return config(set_inductor_config=False)  # else it changes torch.compile's for the whole process


def block_linears(teacher: Teacher, network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers in the network's blocks, by name; under adapters, those that these stand on.

    Embeddings and the output head are few weights, and whatever the blocks do passes through them: left alone.
    """
    inside = {module for block in teacher.blocks(network) for module in block.modules()}
    return {n: m for n, m in network.named_modules() if m in inside and isinstance(m, nn.Linear)}


@torch.no_grad()
def quantise_base(teacher: Teacher, kind: EightBits) -> None:
    """Quantises the weights of the denoiser's block linears to 8-bit, in place: of all roles that share them.

    Layers that are 8-bit already stay as they are, and so do those that diffusers keeps in float32. Raises
    ValueError where torchao is missing, or there is no such layer.
    """
    wanted_for = f"student.base={kind}"
    torchao, settings = torchao_quantization(wanted_for), weight_config(kind, wanted_for)
    layers = chosen_layers(teacher)
    for layer in layers:
        if not is_quantised(layer.weight):
            torchao.quantize_(layer, settings)
            layer.requires_grad_(False).__class__ = EightBitLinear


@contextmanager
def base_of(teacher: Teacher, kind: EightBits | None) -> Iterator[None]:
    """The denoiser's weights are as `quantise_base` makes them inside the `with` block, and as they were behind it."""
    weights = [] if kind is None else [(layer, layer.weight) for layer in chosen_layers(teacher)]
    if kind is not None:
        quantise_base(teacher, kind)
    try:
        yield
    finally:
        for layer, weight in weights:
            layer.weight, layer.__class__ = weight, nn.Linear


def chosen_layers(teacher: Teacher) -> list[nn.Linear]:
    """Those that `quantise_base` quantises to 8-bit. Raises ValueError where there is none."""
    linear_layers: dict[int, nn.Linear] = {}
    for network in every_network(teacher.denoiser):
        layers = block_linears(teacher, network)
        plain = {name: layer for name, layer in layers.items() if type(layer) in (nn.Linear, EightBitLinear)}
        linear_layers |= {id(layer): layer for name, layer in plain.items() if not stays_exact(network, name)}
    if not linear_layers:
        kinds = {type(network).__name__ for network in every_network(teacher.denoiser)}
        raise ValueError(
            f"student.base: {' and '.join(sorted(kinds))} has no linear layers in its blocks that could be quantised "
            "to 8-bit: leave it out"
        )
    return list(linear_layers.values())


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight is one of torchao's."""
    return hasattr(weight, "qdata")


class EightBitLinear(nn.Linear):
    """A frozen layer with torchao's weights. Its backward pass turns them back once more: torchao's own would keep what
    its forward pass turned them into, so that a student's graph would hold all weights in 16 bits or more."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), in autocast's dtype where it is on."""
        device = "cpu" if input.is_meta else input.device.type
        if torch.is_autocast_enabled(device):  # torchao's layers give what they get, which after norms is float32
            input = input.to(torch.get_autocast_dtype(device))
        product: Tensor = _Product.apply(input, self.weight)
        return product if self.bias is None else product + self.bias.to(product.dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, input: Tensor, weight: Any) -> Tensor:
        context.weight = weight
        return nn.functional.linear(input, weight)

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple[Tensor, None]:
        return gradient @ context.weight.dequantize().to(gradient.dtype), None
