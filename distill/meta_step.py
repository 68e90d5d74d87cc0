"""A training step on the device meta, which holds shapes and no numbers: what it would take of memory, and its FLOPs.

Nothing is modelled: the very networks, objective and optimizer of a run make the step, and what they allocate is
counted as it comes and goes. So the count holds for any family, objective and recipe.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as shapes_config
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter, tree_map_only
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from fewstep.distill.meta_kernels import run_on_meta

META = torch.device("meta")
_ATEN = torch.ops.aten
_FORWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward
_ANYTHING = {torch.bool: False, torch.int64: 1, torch.int32: 1}  # stand-ins for unknown numbers

# https://docs.pytorch.org/docs/stable/amp.html#cuda-op-specific-behavior, as far as networks and losses here use them
_LOWER = (
    *(nn.functional.linear, nn.functional.scaled_dot_product_attention, torch.matmul, torch.bmm, torch.mm, torch.addmm),
    *(torch.conv1d, torch.conv2d, torch.conv3d, torch.baddbmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm),
    *(nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d, torch.einsum),
)
_FLOAT32 = (
    *(nn.functional.layer_norm, nn.functional.group_norm, nn.functional.softmax, torch.softmax, Tensor.softmax),
    *(nn.functional.mse_loss, nn.functional.softplus, torch.rsqrt, torch.pow, Tensor.pow, Tensor.__pow__, torch.exp),
    *(Tensor.exp, Tensor.sum, torch.sum, Tensor.norm, torch.norm),
)


class MetaMemory(TorchDispatchMode):
    """Counts bytes of tensors on the device meta, now (`held`) and at most (`peak`), and `flops`, while it is entered.

    Where code reads a number, it gets a stand-in: an unknown one would end the step. Indices of what is not zero are
    all indices, so texts are as long as they can be.
    """

    def __init__(self, modules: Iterable[nn.Module] = ()) -> None:
        """modules: what is there already."""
        super().__init__()
        self.held = self.peak = self.flops = 0
        self._sizes: dict[int, int] = {}
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                for part in plain_tensors(tensor):
                    self._count(part)

    def __enter__(self) -> Any:
        """Masks then choose everything."""
        self._masks = patch.object(shapes_config, "meta_nonzero_assume_all_nonzero", True)
        self._masks.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._masks.stop()

    def restart(self) -> None:
        """`peak` and `flops` are then those of what comes."""
        self.peak, self.flops = self.held, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if any(hasattr(kind, "__tensor_flatten__") for kind in types):
            return NotImplemented  # one of torchao's, which asks again with the tensors that it is made of
        named = dict(kwargs or {})
        first = args[0] if args and isinstance(args[0], Tensor) and args[0].is_meta else None
        # where code reads a number or looks for what is not zero, it gets a stand-in, or the step would end here
        if first is not None and func is _ATEN._local_scalar_dense.default:
            return _ANYTHING.get(first.dtype, 0.5)
        if first is not None and func is _ATEN.nonzero.default:
            return torch.ones(first.shape).nonzero()  # on the CPU, where they can be looked at
        if first is not None and func is _ATEN._to_copy.default and _leaves_meta(named.get("device")):
            return torch.full(first.shape, 0.5, device=named["device"]).to(named.get("dtype") or first.dtype)
        # all else runs as it is, in shapes alone: FLOPs by torch's formulas, memory by the new storages
        made = run_on_meta(func, args, named)
        if (kernel := getattr(func, "overloadpacket", func)) in _FLOPS:
            self.flops += int(_FLOPS[kernel](*args, **named, out_val=made))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: Tensor) -> None:
        if not tensor.is_meta:
            return
        # views share a storage, which is counted once
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes:
            self._set(storage, storage.nbytes())

    def share(self, tensors: Iterable[Tensor], part: float) -> None:
        """Of these tensors only so much of each is there from now on: 0 to 1."""
        for tensor in tensors:
            for plain in plain_tensors(tensor):
                if plain.is_meta:
                    self._set(plain.untyped_storage(), round(plain.untyped_storage().nbytes() * part))

    def _set(self, storage: Any, size: int) -> None:
        key = storage._cdata
        # a storage counts until the last tensor on it is gone, as an allocator has it
        if key not in self._sizes:
            weakref.finalize(storage, self._drop, key)
        self.held += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self.held)

    def _drop(self, key: int) -> None:
        self.held -= self._sizes.pop(key, 0)


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor, or those that it is made of, where bits are few."""
    if not is_traceable_wrapper_subclass(tensor):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()
    for name in names:
        yield from plain_tensors(getattr(tensor, name))


class AsOnDevice(TorchFunctionMode):
    """What torch does otherwise on the device meta than on a GPU: autocast, which follows that of the CPU here, and
    attention without a matrix of scores (FlashAttention, arXiv 2205.14135)."""

    def __enter__(self) -> Any:
        self._autocast = patch("torch.autocast", _autocast)  # which knows no device meta, not even to be switched off
        self._autocast.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._autocast.stop()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        # autocast: products in the lower precision, norms and losses in float32
        if (func in _LOWER or func in _FLOAT32) and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu") if func in _LOWER else torch.float32
            args, named = tree_map_only(Tensor, lambda tensor: _cast(tensor, dtype), (args, named))
        if func is nn.functional.scaled_dot_product_attention:
            return _attention(*args, **named)
        return func(*args, **named)


class _autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **named: Any) -> None:
        super().__init__("cpu" if device_type == META.type else device_type, *args, **named)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` by the kernel whose shapes are known without numbers; q, k, v: (..., H, L, D)."""
    if not query.is_meta:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    # the CPU's flash kernel: like a GPU's it makes no matrix of scores
    mask = None if attn_mask is None else attn_mask.to(query.dtype)
    attended: Tensor = _FORWARD(query, key, value, dropout_p, is_causal, attn_mask=mask, scale=scale)[0]
    return attended


def _attention_flops(query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward_flops(gradient: Any, query: Any, key: Any, value: Any, *others: Any, **named: Any) -> int:
    return int(sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape))


_FLOPS = flop_registry | {_FORWARD: _attention_flops, _BACKWARD: _attention_backward_flops}


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Autocast leaves whole numbers and float64 alone."""
    casts = tensor.is_meta and tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return tensor.to(dtype) if casts else tensor


def _leaves_meta(device: Any) -> bool:
    return device is not None and torch.device(device).type != META.type
