"""`fewstep` commands in processes of their own, forked from one that has imported everything: real signals, real exit
codes, without seconds of imports before each."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.forked import CONTEXT


class Command:
    """A `fewstep` command that runs while we look; `before`, a function at a module's top, is called first in it."""

    def __init__(self, log: Path, *arguments: object, before: Callable[[], None] | None = None) -> None:
        self._log = log
        self.process: BaseProcess = CONTEXT.Process(target=_run, args=(log, [str(a) for a in arguments], before))
        self.process.start()

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    def send(self, number: int) -> None:
        """Sends it a signal, if it still runs."""
        if self.process.pid is not None and self.runs:
            os.kill(self.process.pid, number)

    def finish(self, seconds: float = 120) -> tuple[int | None, str]:
        """Waits for its end: its exit code, and all that it printed."""
        self.process.join(seconds)
        if self.runs:
            self.process.kill()
        self.process.join()
        return self.process.exitcode, self._log.read_text(errors="replace")


def command(log: Path, *arguments: object, before: Callable[[], None] | None = None) -> tuple[int | None, str]:
    """Exit code and output of a command that nobody interrupts."""
    return Command(log, *arguments, before=before).finish()


def signalled(
    log: Path, number: int, ready: Callable[[], bool], *arguments: object, before: Callable[[], None] | None = None
) -> tuple[int | None, str]:
    """Exit code and output of a command that is sent a signal once it is `ready`, or has ended before."""
    child = Command(log, *arguments, before=before)
    wait_until(ready, lambda: child.runs)
    child.send(number)
    return child.finish()


def last_line(output: str) -> str:
    """The sentence that a command ended with."""
    return ([line.strip() for line in output.splitlines() if line.strip()] or [""])[-1]


def end_of(code: int | None, output: str) -> str:
    """Exit code and last line, and whether a traceback came before."""
    traceback = " after a traceback" if "Traceback" in output else ""
    return f"exit {code}{traceback}: {last_line(output)}"


def after(seconds: float) -> Callable[[], bool]:
    """Ready so long after it was first asked."""
    begun: list[float] = []

    def ready() -> bool:
        begun.append(time.monotonic())
        return begun[-1] - begun[0] >= seconds

    return ready


def appears(folder: Path, pattern: str, num: int = 1) -> Callable[[], bool]:
    """Ready once so many files of this pattern are there."""
    return lambda: sum(1 for _ in folder.glob(pattern)) >= num


def wait_until(ready: Callable[[], bool], going_on: Callable[[], bool], seconds: float = 120) -> None:
    """Returns once it is ready, nothing goes on any more, or the time is over."""
    end = time.monotonic() + seconds
    while going_on() and not ready() and time.monotonic() < end:
        time.sleep(0.005)


def slow_disk() -> None:
    """Checkpoints take a minute to reach the disk, reports some seconds."""
    sync, seconds = os.fsync, {".state.part.pt": 60, ".report.part.html": 3}

    def slow(file: int) -> None:
        time.sleep(seconds.get(Path(f"/proc/self/fd/{file}").resolve().name, 0))
        sync(file)

    os.fsync = slow  # type: ignore[assignment]


def _run(log: Path, arguments: list[str], before: Callable[[], None] | None) -> None:
    from fewstep.cli import main

    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["COLUMNS"] = "300"
    sys.argv = ["fewstep", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    if before is not None:
        before()
    main()
