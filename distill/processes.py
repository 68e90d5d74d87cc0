"""The processes of one run: they wait for one another, stop after the same step, and say so when one has ended."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed, nn
from torch.distributed import distributed_c10d

from fewstep.teacher.interrupts import Signals, Stop, requested_stop

_POLL_SECONDS = 0.2
_HERE = "fewstep/here"


class ProcessEnded(ValueError):
    """Another process of the run is gone, so this one cannot go on."""


@dataclass(frozen=True)
class Request:
    """What signals have asked all processes for. stop: the signal's number, or 0; save: a checkpoint."""

    stop: int
    save: bool


def agree(accelerator: Accelerator, signals: Signals) -> Request:
    """What the signals of any process have asked for; all processes get the same answer. Requests to save are then met.

    Raises ProcessEnded when another process is gone, Stop when this one was asked to stop as well.
    """
    own = Request(signals.stop, signals.save)
    signals.save = False
    if accelerator.num_processes == 1:
        return own
    with _among_processes():
        everyone: Any = accelerator.gather(torch.tensor([[own.stop, int(own.save)]], device=accelerator.device))
    stop, save = everyone.amax(0).tolist()
    return Request(stop, bool(save))


def wait_for_all(accelerator: Accelerator) -> None:
    """Returns once every process is here.

    The main one may keep the others waiting for long, as it makes the data: a collective call would hear no signal
    meanwhile, so they look again and again. Raises ProcessEnded when another process is gone.
    """
    if accelerator.num_processes == 1:
        return
    with _among_processes():
        store: Any = distributed_c10d._get_default_store()  # what the processes have found one another by
        turn = store.add(f"{_HERE}/{accelerator.process_index}", 1)
        while store.add(f"{_HERE}/0", 0) < turn:
            time.sleep(_POLL_SECONDS)
        accelerator.wait_for_everyone()


def average_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Averages gradients over processes. Adapters share a network and a turn may skip parameters, so no wrapper such
    as DistributedDataParallel fits; one flat tensor is as fast. Raises ProcessEnded when another process is gone."""
    if accelerator.num_processes == 1:
        return
    parameters = list(parameters)
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients])
    with _among_processes():
        mean: Any = accelerator.reduce(flat, "mean")
    for parameter, gradient in zip(parameters, mean.split([g.numel() for g in gradients]), strict=True):
        parameter.grad = gradient.view_as(parameter)


def sum_over_processes(figures: Tensor, device: torch.device) -> Tensor:
    """The sum of every process's figures, which go through `device` where there are several.

    Raises ProcessEnded when another process is gone.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return figures
    total = figures.to(device)
    with _among_processes():
        distributed.all_reduce(total)
    return total.to(figures.device)


@contextmanager
def _among_processes() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's
        number = requested_stop()
        if number:  # the others were asked to stop as well, and were quicker
            raise Stop(number) from error
        raise ProcessEnded(
            "another process of this run has ended, and its own message, if it left one, says why; what was finished "
            "is kept: run the same command again to resume"
        ) from error
