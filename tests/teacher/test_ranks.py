"""Processes of one command: what they share, what each of them hears, and how all end when one does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from accelerate import PartialState
from torch._C._distributed_c10d import HashStore

from fewstep.teacher import ranks as module
from fewstep.teacher.interrupts import Stop
from fewstep.teacher.ranks import ALONE, ProcessEnded, Ranks, num_launched, on_cpu, unlaunched
from tests.two_ranks import both


def test_every_item_goes_to_one_process() -> None:
    def work(ranks: Ranks) -> tuple[list[str], int, list[int]]:
        done, mine = ranks.tally(), list[str]()
        for item in ranks.deal("abcdefghij"):
            mine.append(item)
            done.add(2)
            time.sleep(0.01)
        ranks.wait()
        return mine, done.add(), ranks.from_first(lambda: [ranks.rank, 7])

    first, second = (end.result() for end in both(work))
    assert sorted(first[0] + second[0]) == list("abcdefghij") and first[0] and second[0]
    assert first[1:] == second[1:] == (20, [0, 7])


def test_who_only_counts_is_alone_whoever_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate joins the others where it finds one of these, even for the CPU."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    state: Any = PartialState.__new__(PartialState)
    usual, launched = PartialState._prepare_backend, "MULTI_CPU"
    assert usual(state, cpu=True)[1] == launched
    with unlaunched():
        assert num_launched() == 1 and usual(state, cpu=True)[1] == "NO"
    assert num_launched() == 2 and usual(state, cpu=True)[1] == launched


def test_one_process_has_all_items() -> None:
    assert list(ALONE.deal([3, 1])) == [3, 1] and ALONE.from_first(lambda: "said") == "said"
    ALONE.wait(lambda: pytest.fail("nobody is waited for"))
    ALONE.check()
    assert ALONE.first and not ALONE.ended()


def test_who_waits_is_told_what_is_done_meanwhile() -> None:
    def work(ranks: Ranks) -> list[int]:
        done, seen = ranks.tally(), list[int]()
        if not ranks.first:
            for _ in range(3):
                time.sleep(0.3)
                done.add(1)
        ranks.wait(lambda: seen.append(done.add()))
        return seen

    first, _ = both(work)
    assert first.result()[0] == 0 and max(first.result()) > 0


@pytest.mark.parametrize("number", [0, signal.SIGTERM])
@pytest.mark.parametrize("waiting", ["wait", "from_first", "deal"])
def test_all_end_when_one_does(waiting: str, number: int) -> None:
    """With the signal that stopped it, or because another one has ended."""

    def work(ranks: Ranks) -> None:
        if ranks.rank == (waiting != "from_first"):
            raise Stop(number) if number else ValueError("no disk")
        if waiting == "deal":
            for _ in ranks.deal(range(1000)):
                time.sleep(0.01)
        elif waiting == "wait":
            ranks.wait()
        else:
            ranks.from_first(lambda: 0)

    began = time.monotonic()
    ends = both(work)
    failed, left = (end.exception() for end in (ends if waiting == "from_first" else ends[::-1]))
    assert time.monotonic() - began < 5
    if number:
        assert isinstance(left, Stop) and left.number == number
    else:
        assert str(failed) == "no disk" and isinstance(left, ProcessEnded)
        assert "another process of this run has ended, and its own message" in str(left)


def test_who_was_killed_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On this machine; where a process of another one is, its launcher looks."""
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
    store, second = HashStore(), subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    first, host = Ranks(0, 2, store), module._machine()
    first.check()  # the second has not said who it is
    for machine, gone in (("elsewhere", False), (host, True)):
        first = Ranks(0, 2, store)
        store.set("fewstep/process/1", f'["{machine}", {second.pid}]')
        first.check()
        if gone:
            second.kill()
            while first.ended() is False:  # a zombie does not run either
                time.sleep(0.01)
            with pytest.raises(ProcessEnded):
                first.check()
    second.wait()


def test_a_launcher_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_launched() == 1
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert num_launched() == 4
    monkeypatch.setenv("WORLD_SIZE", "many")
    assert num_launched() == 4


def test_processes_do_not_share_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_cpu(None, 8) != torch.accelerator.is_available()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert on_cpu("cpu", 8) and not on_cpu("cuda", 8) and not on_cpu("cuda:1", 1)
    with pytest.raises(ValueError, match="8 processes were started for one device, cuda:0: pass cuda"):
        on_cpu("cuda:0", 8)
