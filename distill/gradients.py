"""Gradients of several processes: averaged where every process holds all of a parameter, and clipped together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn

from fewstep.distill.parallel import is_shard
from fewstep.teacher.ranks import among_processes

_BUCKET = 100 * 2**20  # bytes that are sent at a time
_IN_FLIGHT = 4  # buckets that are sent and not back yet; no more is copied


@dataclass
class _Sent:
    bucket: list[nn.Parameter]
    flat: Tensor
    work: Any

    def unpack(self, num_processes: int) -> None:
        self.work.wait()
        mean = self.flat.div_(num_processes)
        for parameter, part in zip(self.bucket, mean.split([p.numel() for p in self.bucket]), strict=True):
            _gradient(parameter).copy_(part.view_as(parameter))


class AveragedGradients:
    """The gradients of parameters that every process holds whole, averaged over processes in place.

    They are sent in buckets, always the same ones in the same order, the last parameters first. After `expect` a bucket
    leaves as soon as the backward pass has made all of it, while the pass goes on. Roles share networks, are asked
    several times before a backward pass and skip parameters in some turns, so no wrapper such as
    DistributedDataParallel fits. Sharded parameters are left alone: theirs are averaged already.
    """

    def __init__(self, accelerator: Accelerator, parameters: Sequence[nn.Parameter]) -> None:
        self._accelerator = accelerator
        whole = [parameter for parameter in parameters if not is_shard(parameter)]
        self._buckets = list(_buckets(whole[::-1])) if accelerator.num_processes > 1 else []
        self._waiting = False
        self._begin()
        for number, bucket in enumerate(self._buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._made, number))

    def expect(self) -> None:
        """The next backward pass is the last before `finish`."""
        self._begin()
        self._waiting = True

    def finish(self, finite: bool = True) -> None:
        """Returns once all gradients are averaged. A parameter that has no gradient in any process gets none; where one
        of the processes is not `finite`, all gradients become NaN in all of them.

        Raises ProcessEnded when another process is gone.
        """
        self._waiting = False
        if not self._buckets:
            return
        parameters = [parameter for bucket in self._buckets for parameter in bucket]
        with among_processes():
            # one exchange for all: whether a loss is not finite, and which parameters have a gradient in any process
            states = [int(not finite), *(int(parameter.grad is not None) for parameter in parameters)]
            # buckets that the backward pass left incomplete, as some parameters got no gradient, leave only now
            self._send_until(len(self._buckets))
            self._receive(0)
            flags = torch.tensor(states, device=self._accelerator.device)
            distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        spoilt, *reached = flags.tolist()
        for parameter, somewhere in zip(parameters, reached, strict=True):
            if not somewhere:
                parameter.grad = None
            elif spoilt:
                _gradient(parameter).fill_(math.nan)
        self._begin()

    def _begin(self) -> None:
        self._missing = [set(map(id, bucket)) for bucket in self._buckets]
        self._num_sent, self._sent = 0, deque[_Sent]()

    def _made(self, number: int, parameter: nn.Parameter) -> None:
        """A backward pass has made a parameter's gradient."""
        if not self._waiting:
            return
        if number < self._num_sent:
            raise AssertionError("a backward pass made a gradient twice, the second time after it was sent")
        # buckets leave in order: one that is complete waits for those before it
        self._missing[number].discard(id(parameter))
        self._send_until(next((i for i, missing in enumerate(self._missing) if missing), len(self._missing)))

    def _send_until(self, end: int) -> None:
        """Sends buckets in order: every process must send the same one at a time."""
        for bucket in self._buckets[self._num_sent : end]:
            flat = torch.cat([_or_zeros(parameter).flatten() for parameter in bucket])
            self._sent.append(_Sent(bucket, flat, distributed.all_reduce(flat, async_op=True)))
            self._num_sent += 1
            self._receive(_IN_FLIGHT)

    def _receive(self, num_left: int) -> None:
        """Waits for the buckets that were sent first, until so many are in flight."""
        while len(self._sent) > num_left:
            self._sent.popleft().unpack(self._accelerator.num_processes)


@torch.no_grad()
def clip_gradients(accelerator: Accelerator, parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scales all gradients so that their common norm is `limit` at most; returns the norm before."""
    gradients: list[Any] = [p.grad for p in parameters if p.grad is not None]
    parts = [gradient.to_local() for gradient in gradients if is_shard(gradient)]
    if not any(map(is_shard, parameters)):
        return float(nn.utils.clip_grad_norm_(parameters, limit))
    whole = [gradient for gradient in gradients if not is_shard(gradient)]
    # shards are summed over processes; tensors that every process holds whole count once
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


def _or_zeros(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Of one dtype each, in order."""
    bucket, size = list[nn.Parameter](), 0
    for parameter in parameters:
        if bucket and (size + parameter.nbytes > _BUCKET or parameter.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.nbytes
    if bucket:
        yield bucket
