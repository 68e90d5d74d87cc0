"""Two processes of one command, as a launcher starts them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.cases.child_commands import Command, end_of


class Pair:
    """Both processes, with a log each in the folder; `broken` is called in the second one first."""

    def __init__(self, folder: Path, *arguments: object, broken: Callable[[], None] | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._processes = [
            Command(folder / f"log-{rank}", *arguments, before=partial(_as_process, rank, port, broken))
            for rank in range(2)
        ]

    @property
    def run(self) -> bool:
        """Whether both still do."""
        return all(process.runs for process in self._processes)

    def send(self, number: int, *ranks: int) -> None:
        """A signal to some of them."""
        for rank in ranks:
            self._processes[rank].send(number)

    def ends(self) -> list[str]:
        """How each ended."""
        return [end_of(*process.finish()) for process in self._processes]


def _as_process(rank: int, port: int, broken: Callable[[], None] | None) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if rank == 1 and broken is not None:
        broken()
