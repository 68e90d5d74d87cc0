"""`fewstep` commands in processes of their own, forked from one that has imported everything: real signals, real exit
codes, without seconds of imports before each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.cases.imported_first"])


class Command:
    """A `fewstep` command that runs while we look; `before`, a function at a module's top, is called first in it."""

    def __init__(self, log: Path, *arguments: object, before: Callable[[], None] | None = None) -> None:
        self._log = log
        self.process: BaseProcess = _CONTEXT.Process(target=_run, args=(log, [str(a) for a in arguments], before))
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


def last_line(output: str) -> str:
    """What a command ended with."""
    return ([line.strip() for line in output.splitlines() if line.strip()] or [""])[-1]


def _run(log: Path, arguments: list[str], before: Callable[[], None] | None) -> None:
    from fewstep.cli import main

    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["COLUMNS"] = "300"
    sys.argv = ["fewstep", *arguments]
    if before is not None:
        before()
    main()
