"""Adam's moments in blocks of 8 or 4 bits by torchao (arXiv 2110.02861, 2309.01507), in whole and in sharded tensors.

A block never crosses a row of its parameter, which is what lies at one index of its first dimension. Sharding deals out
rows, so blocks are the same however many processes hold the parameter. One with fewer rows than processes is in no
blocks there; a checkpoint of one layout is resumed by any other all the same (`held_alike`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fewstep.distill.parallel import is_shard, shard_like
from fewstep.teacher.extras import extra_module

BLOCK = 64  # numbers with a scale of their own; divides the rows of nearly every weight, low-rank ones included
PlainMoment = Tensor | Mapping[str, Tensor]
LEAST = 4096  # numbers of a tensor that is worth blocks


def few_bit_optimizer(name: str, wanted_for: str) -> type[torch.optim.Optimizer]:
    """torchao's optimizer of this name, with blocks in rows. Raises ValueError where torchao is missing."""
    base: Any = getattr(extra_module("torchao.optim", wanted_for, "quant"), name)

    class InRows(base):  # type: ignore[misc]
        def _new_buffer(self, parameter: Tensor, signed: bool) -> Tensor:
            """Zeros to remember a moment in. torchao asks its own method of this name, which knows no rows."""
            if not in_blocks(parameter):
                return torch.zeros_like(parameter)
            if not is_shard(parameter):
                return self._subclass_zeros(parameter, signed, BLOCK)
            # blocks of this process's own rows, held as a shard like the parameter's
            sharded: Any = parameter
            return shard_like(self._subclass_zeros(sharded.to_local(), signed, BLOCK), sharded, sharded.shape)

    return InRows


def in_blocks(parameter: Tensor) -> bool:
    """Whether its moments have few bits: it is large enough, of whole blocks per row, and every process has a row."""
    if parameter.numel() < LEAST or math.prod(parameter.shape[1:]) % BLOCK:
        return False
    if not is_shard(parameter):
        return True
    sharded: Any = parameter
    num_processes = sharded.device_mesh.size()
    return len(torch.empty(len(parameter), device="meta").chunk(num_processes)) == num_processes


def held_alike(
    optimizer: torch.optim.Optimizer, parameter: Tensor, name: str, saved: PlainMoment, own: PlainMoment
) -> PlainMoment:
    """A saved moment, whole, as `own` is held: in blocks, or in float32. Small parameters are in blocks only where
    every process has a row of them, so a checkpoint of another layout may hold them the other way."""
    if isinstance(saved, Mapping) == isinstance(own, Mapping) or not has_blocks(optimizer):
        return saved
    blocks = whole_blocks(optimizer, parameter, name)
    if not isinstance(saved, Mapping):
        return plain_moment(blocks.copy_(saved))
    parts = plain_moment(blocks)
    assert isinstance(parts, Mapping)
    for part, tensor in parts.items():
        tensor.copy_(saved[part])
    return blocks.dequantize()


def has_blocks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is one of `few_bit_optimizer`'s."""
    return hasattr(optimizer, "_subclass_zeros")


def whole_blocks(optimizer: torch.optim.Optimizer, parameter: Tensor, name: str) -> Tensor:
    """Zeros in blocks in the shape of the whole parameter, as its moment of this name is held."""
    few_bit: Any = optimizer
    whole = torch.empty(parameter.shape, device=parameter.device)
    blocks: Tensor = few_bit._subclass_zeros(whole, name == "exp_avg", BLOCK)
    return blocks


def plain_moment(moment: Tensor) -> PlainMoment:
    """What a checkpoint holds of a moment: itself, or its blocks' codes and scales, a row per row of the parameter.
    They are the very same memory, and sharded where the moment is."""
    sharded: Any = moment
    local = sharded.to_local() if is_shard(moment) else moment
    if not hasattr(local, "codes"):
        return moment
    parts = {name: getattr(local, name).view(len(local), -1) for name in ("codes", "scale")}
    if local is moment:
        return parts
    return {name: shard_like(part, sharded, (len(moment), part.shape[1])) for name, part in parts.items()}
