"""Scripts in processes that are forked from one that has imported everything: real signals, real exit codes, without
seconds of imports before each."""

from __future__ import annotations

import faulthandler
import os
import runpy
import socket
import sys
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.imported_first"])


class Scripts:
    """So many processes of one script, as a launcher starts them; what each writes to stderr is kept in `logs`."""

    def __init__(self, count: int, script: Path | str, *arguments: object, logs: Path) -> None:
        port = free_port()
        self._logs = [logs / f"stderr-{rank}" for rank in range(count)]
        self._processes: list[BaseProcess] = []
        for rank, log in enumerate(self._logs):
            words = [str(script), *map(str, arguments)]
            self._processes.append(CONTEXT.Process(target=_run, args=(words, log, rank, count, port)))
            self._processes[-1].start()

    def wait_for_first(self) -> None:
        """Until one of them has ended."""
        while all(process.is_alive() for process in self._processes):
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, to all."""
        for process in self._processes:
            process.kill()

    def ends(self, seconds: float = 600) -> list[tuple[int | None, str]]:
        """Exit code, and what was written to stderr, of each; none of them is left after so many seconds."""
        end = time.monotonic() + seconds
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
        self.kill()
        for process in self._processes:
            process.join()
        texts = [log.read_text(errors="replace") if log.exists() else "" for log in self._logs]
        return [(process.exitcode, text) for process, text in zip(self._processes, texts, strict=True)]


def run_scripts(count: int, script: Path | str, *arguments: object, logs: Path) -> None:
    """So many processes of one script, all of which end well."""
    ends = Scripts(count, script, *arguments, logs=logs).ends()
    assert [code for code, _ in ends] == [0] * count, "\n".join(text[-3000:] for _, text in ends)


def free_port() -> int:
    """Where processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def become(rank: int, count: int, port: int) -> None:
    """This process is one of several, as torchrun says it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _run(words: list[str], log: Path, rank: int, count: int, port: int) -> None:
    with log.open("w") as file, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.enable()  # a crash of native code says where each thread was
    become(rank, count, port)
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
