"""Operations on the device meta whose results are known from before: torch's own shape functions are slow.

Most of them are Python decompositions of .2 to 1 ms a call, and a step of a network with forty blocks calls the same
ones on the same shapes forty times. What torch gave for a call's shapes once is made again without asking it, as its
`FakeTensorMode` does. Views, and results whose storage is other than their shape asks for, are left to torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_MOST_CALLS = 50_000  # of about 1 kB each
_PLAIN = (Tensor, nn.Parameter)
_CONSTANTS = (int, float, bool, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
_IN_PLACE = "in place"
_REPLACES_STORAGE = (torch.ops.aten.set_, torch.ops.aten.resize_)


class _Made(NamedTuple):
    """What a new tensor on meta is like."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def again(self) -> Tensor:
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device="meta")


_known: dict[Any, str | tuple[_Made, ...]] = {}


def run_on_meta(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """`func(*args, **named)` of an operator below autograd; its new tensors by what torch gave for these shapes before.

    Tensors on meta hold no numbers, so that shapes, strides and dtypes of the arguments decide those of the results.
    """
    key = _key_of(func, args, named) if _gives_tensors(func) else None
    if key is None:
        return func(*args, **named)
    known = _known.get(key)
    if known == _IN_PLACE:
        return args[0]
    if known is not None:
        tensors = tuple(made.again() for made in known if isinstance(made, _Made))
        return tensors if len(tensors) > 1 else tensors[0]
    results = func(*args, **named)
    # in place: the call's shapes broadcast to the first one's, which stays as it is
    effect = _IN_PLACE if func._schema.is_mutable else _made_of(results)
    if effect is not None:
        if len(_known) >= _MOST_CALLS:
            _known.clear()
        _known[key] = effect
    return results


@cache
def _gives_tensors(func: Any) -> bool:
    """Whether an operator makes one tensor or a tuple of them, or changes the numbers of its first argument alone."""
    given = func._schema.returns
    if not given or not all(isinstance(one.type, torch.TensorType) for one in given):
        return False
    if not func._schema.is_mutable:
        return all(one.alias_info is None for one in given)
    written = [one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments]
    return (
        len(given) == 1
        and func.overloadpacket not in _REPLACES_STORAGE
        and torch.Tag.inplace_view not in func.tags
        and written[0]
        and not any(written[1:])
    )


def _key_of(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> Any:
    """None: an argument is not known by its shape alone."""
    parts: list[Any] = [func]
    known = _add(parts, args) and all(_add(parts, (name, value)) for name, value in named.items())
    return tuple(parts) if known else None


def _add(parts: list[Any], values: Sequence[Any]) -> bool:
    parts.append(len(values))
    for value in values:
        if type(value) in _PLAIN:
            if not value.is_meta:
                return False
            parts += (value.shape, value.stride(), value.dtype, value.is_conj(), value.is_neg())
        elif isinstance(value, list | tuple):
            if not _add(parts, value):
                return False
        elif type(value) in _CONSTANTS:
            parts += (type(value), value)  # 1, 1.0 and True are equal
        else:
            return False
    return True


def _made_of(results: Any) -> tuple[_Made, ...] | None:
    """None: some result is not made as its shape says."""
    tensors = results if isinstance(results, tuple) else (results,)
    if not all(type(tensor) is Tensor and tensor.is_meta for tensor in tensors):
        return None
    makes = tuple(_Made(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors)
    storages = [tensor.untyped_storage() for tensor in tensors]
    plain = len({storage._cdata for storage in storages}) == len(storages) and all(
        storage.nbytes() == made.again().untyped_storage().nbytes() and not tensor.storage_offset()
        for storage, made, tensor in zip(storages, makes, tensors, strict=True)
    )
    return makes if plain else None
