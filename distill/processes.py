"""The processes that train together: they agree on what to do, and stop after the same step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed
from torch.distributed import distributed_c10d

from fewstep.teacher.interrupts import Signals
from fewstep.teacher.ranks import among_processes


@dataclass(frozen=True)
class Request:
    """What all processes are to do. stop: a signal's number, or 0; save, due: whether a signal asked for a checkpoint,
    or the time that is over since the last."""

    stop: int
    save: bool
    due: bool = False


def agree(accelerator: Accelerator, signals: Signals, due: bool = False) -> Request:
    """What the signals of any process have asked for, and whether a checkpoint is `due` in any; all processes get the
    same answer. Requests to save are then met.

    Raises ProcessEnded when another process is gone, Stop when this one was asked to stop as well.
    """
    own = Request(signals.stop, signals.save, due)
    signals.save = False
    if accelerator.num_processes == 1:
        return own
    # a signal may reach one process alone, and all must stop after the same step
    with among_processes():
        flags = torch.tensor([[own.stop, int(own.save), int(own.due)]], device=accelerator.device)
        everyone: Any = accelerator.gather(flags)
    stop, save, is_due = everyone.amax(0).tolist()
    return Request(stop, bool(save), bool(is_due))


def check_same(accelerator: Accelerator, what: Mapping[str, str], remedy: str) -> None:
    """Raises ValueError in every process, with `remedy`, unless all say the same of everything in `what`."""
    if accelerator.num_processes == 1:
        return
    # all hear all answers, so that each raises the same error and none waits for another
    everyone: list[Any] = [None] * accelerator.num_processes
    with among_processes():
        distributed.all_gather_object(everyone, dict(what))
    for name in what:
        values = [own[name] for own in everyone]
        if len(set(values)) > 1:
            listing = ", ".join(f"process {i}: {value}" for i, value in enumerate(values))
            raise ValueError(f"the processes of this run differ in {name} ({listing}): {remedy}")


def set_process_timeout(minutes: float = 10) -> None:
    """From now on a process that does not answer for so long counts as gone; before, making data may take days."""
    if distributed.is_available() and distributed.is_initialized():
        distributed_c10d._set_pg_timeout(timedelta(minutes=minutes), distributed_c10d._get_default_group())


def group_of_threads() -> Any:
    """A group in which threads of all processes speak to one another by the CPU, made once; every process calls it."""
    global _of_threads
    default = distributed_c10d._get_default_group()
    # threads need a group of their own: their collective calls would mix with those of training
    if _of_threads[0] is not default:
        _of_threads = (default, distributed.new_group(backend="gloo", timeout=timedelta(minutes=10)))
    return _of_threads[1]


_of_threads: tuple[Any, Any] = (None, None)  # the default group that it was made next to, and itself


def sum_over_processes(figures: Tensor, device: torch.device) -> Tensor:
    """The sum of every process's figures, which go through `device` where there are several.

    Raises ProcessEnded when another process is gone.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return figures
    total = figures.to(device)
    with among_processes():
        distributed.all_reduce(total)
    return total.to(figures.device)


def is_of_processes(error: BaseException) -> bool:
    """Whether an error came up between processes, as in a pass through sharded networks, and not in one of them."""
    if not isinstance(error, RuntimeError):
        return False
    known = isinstance(error, distributed.DistError) if distributed.is_available() else False
    return known or any(word in str(error) for word in ("gloo", "NCCL", "closed by peer", "Connection reset"))
