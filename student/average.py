"""The EMA of a student's parameters: where it is kept, and how it follows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

AveragePlace = Literal["device", "cpu", "none"]


class Average:
    """Of parameters by name, float32 as they are: next to them, in main memory, or not at all.

    In main memory it follows a step behind, in a thread of its own: the device only copies its parameters out. Where
    none is kept, the parameters stand for it. Whoever reads `tensors` gets the average of all steps so far.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], kept: AveragePlace) -> None:
        self.kept = kept
        self._parameters = dict(parameters)
        if kept == "device":
            self._tensors = {name: p.detach().clone() for name, p in parameters.items()}
        elif kept == "cpu":
            self._tensors = {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}
            self._copies = {name: _pinned_like(_local(p.detach())) for name, p in parameters.items()}
            self._thread, self._following = ThreadPoolExecutor(1, "average"), Future[None]()
            self._following.set_result(None)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The average by name; where none is kept, the parameters' own tensors."""
        if self.kept == "none":
            return {name: parameter.detach() for name, parameter in self._parameters.items()}
        if self.kept == "cpu":
            self._following.result()
        return self._tensors

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """One step towards the parameters as they are now."""
        if self.kept == "device":
            for name, parameter in self._parameters.items():
                self._tensors[name].lerp_(parameter, 1 - decay)
        elif self.kept == "cpu":
            self._following.result()  # whose copies are written over now
            for name, parameter in self._parameters.items():
                self._copies[name].copy_(_local(parameter), non_blocking=True)
            # training continues at once; the thread waits for the copies: EMA <- decay EMA + (1 - decay) theta
            self._following = self._thread.submit(self._follow, decay, _moment(self._parameters))

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside the `with` block parameters and average have changed places; not to be nested.

        It takes the memory of the largest tensor, not of a third set of them.
        """
        pairs = [(_local(self._parameters[name].detach()), _local(own)) for name, own in self.tensors.items()]
        # asked for once, before anything moves: memory that ran out halfway would leave a mixture
        largest = max((own.numel() for _, own in pairs), default=0)
        of = pairs[0][1] if pairs else torch.empty(0)
        buffer = torch.empty(largest, dtype=of.dtype, device=of.device)
        _exchange(pairs, buffer)
        try:
            yield
        finally:
            _exchange(pairs, buffer)

    @torch.no_grad()
    def _follow(self, decay: float, copied: Any) -> None:
        if copied is not None:
            copied.synchronize()
        for name, average in self._tensors.items():
            _local(average).lerp_(self._copies[name], 1 - decay)


@torch.no_grad()
def _exchange(pairs: Sequence[tuple[Tensor, Tensor]], buffer: Tensor) -> None:
    for parameter, average in pairs:
        before = buffer[: average.numel()].view(average.shape).copy_(average)
        average.copy_(parameter)
        parameter.copy_(before)


def _local(tensor: Any) -> Tensor:
    """The local part of a tensor, which may be sharded."""
    local: Tensor = tensor.to_local() if hasattr(tensor, "placements") else tensor
    return local


def _pinned_like(tensor: Tensor) -> Tensor:
    """Main memory that a GPU can write to by itself."""
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)


def _moment(parameters: Mapping[str, Tensor]) -> torch.cuda.Event | None:
    """When the GPU has done what it was asked so far; None without one."""
    device = next((parameter.device for parameter in parameters.values() if parameter.is_cuda), None)
    if device is None:
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))  # of that GPU, which need not be the current one
    return event
