"""Gradients of several processes: averaged where every process holds all of a parameter, and clipped together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from fewstep.distill.parallel import is_shard
from fewstep.teacher.ranks import among_processes

_BUCKET = 100 * 2**20  # bytes that are sent at a time; no more is copied


def average_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
    """Averages gradients over processes in place; those of sharded parameters are averaged already.

    Roles share networks, are asked several times before a backward pass and skip parameters in some turns, so no
    wrapper such as DistributedDataParallel fits. A parameter that has no gradient in any process gets none. Raises
    ProcessEnded when another process is gone.
    """
    whole = [parameter for parameter in parameters if not is_shard(parameter)]
    if accelerator.num_processes == 1 or not whole:
        return
    with among_processes():
        reached = torch.tensor([int(p.grad is not None) for p in whole], device=accelerator.device)
        distributed.all_reduce(reached, distributed.ReduceOp.MAX)
        gradients = [_gradient(p) for p, somewhere in zip(whole, reached.tolist(), strict=True) if somewhere]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            distributed.all_reduce(flat)
            flat /= accelerator.num_processes
            for gradient, mean in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def clip_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scales all gradients so that their common norm is `limit` at most; returns the norm before."""
    gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
    parts = [gradient.to_local() for gradient in gradients if is_shard(gradient)]
    if not any(map(is_shard, parameters)):
        return float(nn.utils.clip_grad_norm_(parameters, limit))
    whole = [gradient for gradient in gradients if not is_shard(gradient)]
    squared = torch.stack([_squared_norm(share, accelerator.device) for share in (parts, whole)])
    with among_processes():
        distributed.all_reduce(squared[0])
    norm = squared.sum().sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)  # as torch has it
    for gradient in (*parts, *whole):
        gradient.mul_(scale.to(gradient.device))
    return float(norm)


def _squared_norm(gradients: Sequence[Tensor], device: torch.device) -> Tensor:
    if not gradients:
        return torch.zeros((), device=device)
    return torch.stack([gradient.float().square().sum().to(device) for gradient in gradients]).sum()


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Of one dtype each, in order."""
    bucket, size = list[Tensor](), 0
    for gradient in gradients:
        if bucket and (size + gradient.nbytes > _BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.nbytes
    if bucket:
        yield bucket
