"""Frozen linear layers of few bits: eight by torchao, or four (NF4 of QLoRA, arXiv 2305.14314) by bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NF4_BLOCK = 64  # weights of a row with a scale of their own, as QLoRA has it


class FewBitLinear(nn.Linear):
    """A frozen layer. Its backward pass turns its weights back once more: a library's own would keep what the forward
    pass turned them into, so that a student's graph would hold all weights in 16 bits or more."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), in autocast's dtype where it is on."""
        device = "cpu" if input.is_meta else input.device.type
        if torch.is_autocast_enabled(device):  # layers of few bits give what they get, which after norms is float32
            input = input.to(torch.get_autocast_dtype(device))
        product: Tensor = _Product.apply(input, self)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def multiply(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), without the bias."""
        return nn.functional.linear(input, self.full_weight(input.dtype))

    def full_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in), turned back."""
        raise NotImplementedError


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, input: Tensor, layer: FewBitLinear) -> Tensor:
        context.layer = layer
        return layer.multiply(input)

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple[Tensor, None]:
        return gradient @ context.layer.full_weight(gradient.dtype), None


class TorchaoLinear(FewBitLinear):
    """With torchao's weight, which multiplies by kernels of its own."""

    def multiply(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out), without the bias."""
        return nn.functional.linear(input, self.weight)

    def full_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in), turned back."""
        weight: Any = self.weight
        return weight.dequantize().to(dtype)


class RowsLinear(TorchaoLinear):
    """The same with its weight as plain tensors, a row per output each: these can be sharded, torchao's cannot."""

    _kind: type[Any]
    _attributes: dict[str, Any]
    _dtypes: dict[str, torch.dtype]

    @property
    def weight(self) -> Any:  # type: ignore[override]
        """torchao's, around the tensors as they are now."""
        parts = {name: getattr(self, f"weight_{name}").view(dtype) for name, dtype in self._dtypes.items()}
        return self._kind.__tensor_unflatten__(parts, self._attributes, None, None)


class NF4Linear(FewBitLinear):
    """With codes of four bits, two in a byte, and a scale for each block, a row per output each."""

    weight_codes: nn.Parameter
    weight_scale: nn.Parameter

    @property
    def weight(self) -> Any:  # type: ignore[override]
        """What adapters are made for: turned back."""
        return self.full_weight(self._dtype)

    _dtype: torch.dtype

    def full_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in), turned back."""
        codes, scale, shape = self.weight_codes, self.weight_scale, [len(self.weight_codes), self.in_features]
        turned: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
            codes.reshape(-1, 1), scale.flatten(), NF4_BLOCK, "nf4", shape, dtype
        )
        return turned


@torch.no_grad()
def into_nf4(layer: nn.Linear) -> None:
    """Makes the layer an `NF4Linear`, in place. Its inputs are a multiple of `NF4_BLOCK`; bitsandbytes is imported."""
    weight = layer.weight.detach().contiguous()
    # a block never crosses a row, so that rows can be sharded
    codes, scale = torch.ops.bitsandbytes.quantize_4bit(weight, NF4_BLOCK, "nf4", torch.uint8)
    _hold(layer, {"codes": codes.view(len(weight), -1), "scale": scale.view(len(weight), -1)})
    layer.__class__ = NF4Linear
    four: Any = layer
    four._dtype = weight.dtype


def into_rows(network: nn.Module) -> None:
    """Makes every `TorchaoLinear` in the network a `RowsLinear`, in place, around the same numbers."""
    for layer in network.modules():
        if type(layer) is TorchaoLinear:
            weight: Any = layer.weight
            names, attributes = weight.__tensor_flatten__()
            parts = {name: getattr(weight, name) for name in names}
            # bytes as bytes: not every backend sends numbers of 8 bits
            _hold(layer, {n: x.view(torch.uint8) if x.element_size() == 1 else x for n, x in parts.items()})
            layer.__class__ = RowsLinear
            rows: Any = layer
            rows._kind, rows._attributes = type(weight), attributes
            rows._dtypes = {name: part.dtype for name, part in parts.items()}


def _hold(layer: nn.Linear, parts: dict[str, Tensor]) -> None:
    """Plain tensors in place of the weight."""
    del layer.weight
    for name, part in parts.items():
        layer.register_parameter(f"weight_{name}", nn.Parameter(part, requires_grad=False))
