"""Signals that ask a command to stop or to save, acted on at a moment that suits the work."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

from fewstep.teacher.causes import causes

_T = TypeVar("_T")

# Ctrl-C, a scheduler or `kill`, a closed terminal; schedulers' warnings. Not every system has all of them.
_STOPS = {number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))}
_SAVES = {number for name in ("SIGUSR1", "SIGUSR2") if (number := getattr(signal, name, None))}
_ONE_REQUEST_SECONDS = 2.0  # torchrun and srun forward what the whole process group has received already
_AGAIN_SECONDS = 0.05


RESUME = "run the same command again to resume"


class Stop(KeyboardInterrupt):
    """A signal asked the command to stop. `kept` says what is on disk and how to resume."""

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(number, kept)
        self.number, self.kept = number, kept

    @property
    def exit_code(self) -> int:
        """As a shell reports it: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number

    @property
    def name(self) -> str:
        """The signal, as a user knows it."""
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name


class Signals:
    """What signals have asked for. `stop` is the number of the first that asked to stop, or 0; `save` asks for a
    checkpoint."""

    def __init__(self) -> None:
        self.stop, self.save = 0, False
        self._raises, self._again, self._waits, self._heard = False, False, False, 0.0

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """The handler of every signal here. It notes the signal, and raises Stop inside `raising_stop`.

        A second request to stop raises Stop anywhere. What comes within two seconds of a request is part of it.
        """
        if number in _SAVES:
            self.save = True
            return
        now = time.monotonic()
        # what `_raise_later` sends is no request of its own: the first one is raised where it can be
        if self._waits:
            self._waits = False
        elif self.stop and now - self._heard < _ONE_REQUEST_SECONDS:
            return
        else:
            # a second request is raised wherever the command is, also where nothing was to be cut short
            self._again, self._heard, self.stop = bool(self.stop), now, self.stop or number
        if not self._raises and not self._again:
            return
        if _in_import(frame):  # C++ code that sets up a library calls abort when it meets an error
            self._raise_later()
        else:
            raise Stop(self.stop)

    @contextmanager
    def raising_stop(self, wanted: bool = True) -> Iterator[None]:
        """A request to stop, also an earlier one, raises Stop inside the block; unless `wanted`, it is only noted."""
        before, self._raises = self._raises, wanted
        try:
            if wanted and self.stop:
                raise Stop(self.stop)
            yield
        finally:
            self._raises = before
        if before and self.stop:  # noted in a block that was not to be cut short
            raise Stop(self.stop)

    def attempt(self, work: Callable[[], _T]) -> _T | None:
        """work(), or None when a request to stop has cut it short."""
        try:
            with self.raising_stop():
                return work()
        except BaseException as error:
            if not stopped_by(error):
                raise
            return None

    def dropped(self, error: BaseException | None) -> bool:
        """Whether this is a Stop that Python dropped, as it drops what is raised in finalisers: it is raised again."""
        if isinstance(error, Stop):
            self._raise_later()
        return isinstance(error, Stop)

    def _raise_later(self) -> None:
        self._waits = True
        again = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), self.stop))
        again.daemon = True
        again.start()


def _in_import(frame: FrameType | None) -> bool:
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


_current: Signals | None = None


@contextmanager
def noted_signals() -> Iterator[Signals]:
    """Requests to stop or to save are noted inside the block, and nothing is cut short: no file or step is left half.

    Blocks inside one another share what was noted. Signals that the process ignores, as under nohup, stay ignored.
    """
    global _current
    if threading.current_thread() is not threading.main_thread():  # the only one that receives signals
        yield Signals()
        return
    if _current is not None:
        with _current.raising_stop(False):
            yield _current
        return
    _current = signals = Signals()
    # a Stop that is raised within a finaliser is dropped by Python; the hook has it raised again
    before, hook = {}, sys.unraisablehook
    sys.unraisablehook = lambda lost: None if signals.dropped(lost.exc_value) else hook(lost)
    for number in _STOPS | _SAVES:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            before[number] = signal.signal(number, signals.receive)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _current, sys.unraisablehook = None, hook


@contextmanager
def deferring_stop() -> Iterator[None]:
    """A request to stop that comes inside the block is raised after it, if the command handles signals at all."""
    if _current is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    with _current.raising_stop(False):
        yield


def requested_stop() -> int:
    """The number of the signal that asked this command to stop, 0 without one."""
    return _current.stop if _current else 0


def stopped_by(error: BaseException) -> Stop | None:
    """The request to stop that an error comes from, also where a library has raised another error on its way."""
    return next((cause for cause in causes(error) if isinstance(cause, Stop)), None)


def ignore_signals() -> None:
    """For child processes: the parent hears the signals that reach the whole group, and ends its children itself."""
    for number in _STOPS | _SAVES:
        signal.signal(number, signal.SIG_IGN)
