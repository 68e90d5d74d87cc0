"""Two threads of one test that act as two processes of a command."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from torch._C._distributed_c10d import HashStore

from fewstep.teacher.ranks import Ranks

_T = TypeVar("_T")


def both(work: Callable[[Ranks], _T]) -> tuple[Future[_T], Future[_T]]:
    """work(ranks) of the first and of the second process, both ended."""
    store = HashStore()

    def within(rank: int) -> _T:
        with Ranks(rank, 2, store) as ranks:
            return work(ranks)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.submit(within, 0), pool.submit(within, 1)
    return first, second
