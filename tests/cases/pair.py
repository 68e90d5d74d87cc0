"""Two processes of one command, as a launcher starts them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.cases.child_commands import Command, end_of
from tests.forked import become, free_port


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
        port = free_port()
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
    become(rank, 2, port)
    if before is not None:
        before()
