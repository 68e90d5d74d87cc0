"""The processes of one command, as a launcher starts them: they share work, wait for one another and end together."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fewstep.teacher.interrupts import Stop, requested_stop, stopped_by

if TYPE_CHECKING:
    from accelerate import PartialState

_T = TypeVar("_T")
_POLL_SECONDS = 0.05
_LOOK_SECONDS = 1.0  # between looks at whether the others still run
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # as accelerate reads them
_KEY = "fewstep"
_ENDED = f"{_KEY}/ended"
LEFT_ALONE = (
    "another process of this run has ended, and its own message, if it left one, says why; what was finished is kept: "
    "run the same command again to resume"
)


class ProcessEnded(ValueError):
    """Another process of the run is gone, so this one cannot go on."""


class Tally:
    """A number that all processes add to; it begins at 0."""

    def __init__(self, store: Any, key: str) -> None:
        self._store, self._key, self._sum = store, key, 0

    def add(self, amount: int = 0) -> int:
        """The sum of what all have added so far, this amount included."""
        if self._store is None:
            self._sum += amount
            return self._sum
        with among_processes():
            return int(self._store.add(self._key, amount))


class Ranks:
    """The processes of a command, of which this is number `rank`. What they say to one another goes through the store
    that they have found one another by, never through the device.

    Methods that share a call must be called by all of them in the same order. As a context manager, it tells the
    others when an error or a signal ends the block here.
    """

    def __init__(self, rank: int = 0, count: int = 1, store: Any = None) -> None:
        self.rank, self.count, self._store = rank, count, store
        self._calls, self._looked = 0, 0.0
        self._beside: dict[int, int | None] = {}  # rank -> process of this machine, None of another one
        if store is not None:
            store.set(f"{_KEY}/process/{rank}", json.dumps([_machine(), os.getpid()]))

    @property
    def first(self) -> bool:
        """Whether this process writes what is there once, and speaks for all."""
        return self.rank == 0

    def tally(self) -> Tally:
        """A new one, shared by all."""
        return Tally(self._store, self._next_key())

    def deal(self, items: Sequence[_T]) -> Iterator[_T]:
        """Every item to one process, the next one to whichever is free; all must pass the same items.

        Raises as `check`.
        """
        turn = self.tally()
        while (number := turn.add(1) - 1) < len(items):
            self.check()
            yield items[number]

    def from_first(self, make: Callable[[], _T]) -> _T:
        """What the first process makes, in all of them, as JSON gives it back. Raises as `check`."""
        key = self._next_key()
        if self._store is None:
            return make()
        if self.first:
            # made outside `among_processes`: an error of its own says nothing about the others
            text = json.dumps(make())
            with among_processes():
                self._store.set(key, text)
        else:
            # polled, as the store's own waiting would hear no signal
            self._until(lambda: self._store.check([key]))
            with among_processes():
                text = self._store.get(key)
        made: _T = json.loads(text)
        return made

    def wait(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Returns once every process is here; `meanwhile` is called again and again. Raises as `check`.

        It may take days and reacts to signals, which a collective call would not.
        """
        # two counts: that all are here, and that all have seen so
        here, left = self.tally(), self.tally()
        here.add(1)
        self._until(lambda: here.add() >= self.count, meanwhile)
        left.add(1)
        if self.first:  # it may hold the store that the others still look at
            self._until(lambda: left.add() >= self.count)

    def check(self) -> None:
        """Raises ProcessEnded when another process has ended, Stop when a signal has stopped it."""
        if self._store is None:
            return
        with among_processes():
            if self._store.check([_ENDED]):
                number = int(self._store.get(_ENDED))
                raise Stop(number) if number else ProcessEnded(LEFT_ALONE)
            if time.monotonic() - self._looked > _LOOK_SECONDS:
                self._look()

    def ended(self) -> bool:
        """Whether `check` would raise."""
        try:
            self.check()
        except (ProcessEnded, Stop):
            return True
        return False

    def _look(self) -> None:
        """Raises ProcessEnded when another process of this machine was killed. Launchers see to other machines."""
        self._looked = time.monotonic()
        # what is known of a process stays: its machine and number are asked for once
        for rank in range(self.count):
            if rank not in self._beside and self._store.check([f"{_KEY}/process/{rank}"]):
                machine, number = json.loads(self._store.get(f"{_KEY}/process/{rank}"))
                self._beside[rank] = number if machine == _machine() else None
        # one that was killed could not tell the others itself
        if not all(number is None or _runs(number) for number in self._beside.values()):
            raise ProcessEnded(LEFT_ALONE)

    def _until(self, ready: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
        while True:
            with among_processes():
                if ready():
                    return
            self.check()
            meanwhile()
            time.sleep(_POLL_SECONDS)

    def _next_key(self) -> str:
        self._calls += 1
        return f"{_KEY}/{self._calls}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._store is not None:
            # 0 is an error, any other number the signal that stopped this process
            stop = stopped_by(error)
            with suppress(RuntimeError):
                self._store.set(_ENDED, str(stop.number if stop else 0))


ALONE = Ranks()
_current: tuple[Any, Ranks] = (None, ALONE)


def current_ranks() -> Ranks:
    """The processes of the process group that was begun; ALONE without one."""
    global _current
    from torch import distributed
    from torch.distributed import distributed_c10d

    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return ALONE
    store = distributed_c10d._get_default_store()
    # a later process group has another store, and ranks of its own
    if _current[0] is not store:
        _current = (store, Ranks(distributed.get_rank(), distributed.get_world_size(), store))
    return _current[1]


def num_launched() -> int:
    """How many processes a launcher started for this command; known before torch is."""
    return max(int(size) if (size := os.environ.get(name, "1")).isdigit() else 1 for name in _SIZES)


@contextmanager
def unlaunched() -> Iterator[None]:
    """As in a process that no launcher started: who makes an Accelerator in here does not wait for the others."""
    hidden = {name: os.environ.pop(name) for name in (*_SIZES, "LOCAL_RANK") if name in os.environ}
    try:
        yield
    finally:
        os.environ |= hidden


@contextmanager
def launched_ranks(device: str | None) -> Iterator[Ranks]:
    """All processes that a launcher started for this command, each with a device of its own.

    Raises ValueError where `device` is one of several, and for a launcher that does not number those of a machine.
    """
    if num_launched() == 1:
        yield ALONE
        return
    from torch import distributed

    join_processes(on_cpu(device, num_launched()))
    if not distributed.is_initialized():
        raise ValueError(
            f"{num_launched()} processes were started, and none knows its number on its machine (LOCAL_RANK), so each "
            "would do all of the work: start them with torchrun"
        )
    try:
        with current_ranks() as ranks:
            yield ranks
    finally:
        distributed.destroy_process_group()  # one that is left to the interpreter's end may abort there


def join_processes(cpu: bool) -> PartialState:
    """This process among those that a launcher started, on the CPU or with a device of its own; alone without any.

    They wait for one another without end: one may make data for days while the others have nothing to do.
    """
    from accelerate import PartialState

    # Imported while there is a process group, as by an optimizer's first step, this module keeps the group for good, in
    # the default arguments of its functions. Gloo's threads then outlive the interpreter, and one that still lets go of
    # a tensor aborts a process whose work is done.
    from torch.distributed.nn import functional  # noqa: F401

    return PartialState(cpu=cpu, timeout=timedelta(days=30))


def on_cpu(device: str | None, num_processes: int) -> bool:
    """Whether processes that are asked for this device compute on the CPU, as where there is no GPU.

    Raises ValueError where it is one GPU for several processes.
    """
    if num_processes > 1 and device is not None and ":" in device:
        kind = device.partition(":")[0]
        raise ValueError(
            f"{num_processes} processes were started for one device, {device}: pass {kind}, and each process takes its "
            "own"
        )
    import torch

    return device == "cpu" or not torch.accelerator.is_available()


@contextmanager
def among_processes() -> Iterator[None]:
    """What is raised inside because another process is gone becomes ProcessEnded, or Stop where a signal asked this one
    to stop as well."""
    try:
        yield
    except RuntimeError as error:  # gloo's, NCCL's and the store's
        if type(error).__name__ == "OutOfMemoryError":  # torch's: of this process
            raise
        number = requested_stop()
        if number:  # the others were asked to stop as well, and were quicker
            raise Stop(number) from error
        raise ProcessEnded(LEFT_ALONE) from error


def _machine() -> str:
    """Where numbers of processes mean the same: a host, or a container with processes of its own."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _runs(number: int) -> bool:
    import psutil  # not needed at start-up

    try:
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
