"""Two processes of one command, as a launcher starts them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.cases.child_commands import Command, end_of


class Pair:
    """Both processes, with a log each in the folder; `first` and `broken` are called in the first and the second one
    before all else."""

    def __init__(
        self,
        folder: Path,
        *arguments: object,
        first: Callable[[], None] | None = None,
        broken: Callable[[], None] | None = None,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._processes = [
            Command(folder / f"log-{rank}", *arguments, before=partial(_as_process, rank, port, before))
            for rank, before in enumerate((first, broken))
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


def _as_process(rank: int, port: int, before: Callable[[], None] | None) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if before is not None:
        before()
