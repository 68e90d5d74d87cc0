"""Folders that all processes of a command write into: one lock for all of them, and a disk that they must share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fewstep.teacher.files.atomic import ELSEWHERE, lock_of, only_writer
from fewstep.teacher.ranks import Ranks

_SEEN_SECONDS = 60.0  # a network's file system may show new files late
_POLL_SECONDS = 0.2


@contextmanager
def only_writers(folder: Path, ranks: Ranks, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Keeps other commands out of a folder, which is made; the first process holds the lock for all.

    They must leave the block together (`Ranks.wait`). Raises ValueError when another command is in the folder, or this
    process does not see the one that the first writes.
    """
    with ExitStack() as held:
        if ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(only_writer(folder, elsewhere))
        holder = ranks.from_first(lambda: lock_of(folder))
        wait_until_seen(lambda: lock_of(folder) == holder, folder, ranks)
        yield


def wait_until_seen(there: Callable[[], bool], folder: Path, ranks: Ranks) -> None:
    """Returns once what other processes have written into the folder is there. Raises ValueError if it stays away."""
    end = time.monotonic() + _SEEN_SECONDS
    while not there():
        ranks.check()
        if time.monotonic() > end:
            raise ValueError(
                f"{folder} does not show what the other processes write there: put it on a disk that all processes "
                "share"
            )
        time.sleep(_POLL_SECONDS)
