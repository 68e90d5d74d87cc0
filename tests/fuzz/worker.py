"""A process that reads mutated inputs one after the other, with a limit on its memory; it is killed when it hangs."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

ROOM = 6 * 2**30  # bytes that an input may make a process grow by, all that is reserved counted
_LONGEST = 2100  # characters of a sentence that somebody reads

Outcome = Literal["accepted", "refused", "crashed", "hung"]


@dataclass(frozen=True)
class Found:
    """What became of an input; `told` is the sentence or the traceback, `where` what was mutated."""

    outcome: Outcome
    told: str = ""
    where: str = ""
    executed: bool = False


def work(connection: Connection, root: Path, seed: int) -> None:
    """Answers (surface, number) with Found until nothing more comes."""
    place = root / f"worker-{os.getpid()}"
    place.mkdir(parents=True)
    os.chdir(place)
    _be_quiet(place / "output.txt")
    from tests.fuzz.material import make_material

    make_material(root / "material")
    from random import Random

    from tests.fuzz.asked import Asker

    asker = Asker(root / "material", Random(seed))
    _ = asker.teacher
    _limit_memory()
    connection.send("ready")
    while (arguments := connection.recv()) is not None:
        name, number = arguments
        connection.send(_found(asker, name, number, seed, place))
    shutil.rmtree(place, ignore_errors=True)


def _found(asker: object, name: str, number: int, seed: int, place: Path) -> Found:
    from tests.fuzz.asked import Asker
    from tests.fuzz.mutations import PLANTED
    from tests.fuzz.surfaces import BY_NAME, written

    assert isinstance(asker, Asker)
    shutil.rmtree(place / "case", ignore_errors=True)
    where, asker.random = written(name, seed, number, asker.root, place / "case")
    outcome: Outcome = "accepted"
    facts = ""
    try:
        BY_NAME[name].ask(asker, place / "case")
    except Exception as error:
        outcome, facts = _judged(error)
    planted = place / PLANTED
    executed = planted.exists()
    planted.unlink(missing_ok=True)
    return Found(outcome, facts, where, executed)


def _judged(error: Exception) -> tuple[Outcome, str]:
    """A sentence, where the command line would show one and somebody can read it; else a crash."""
    from accelerate.state import AcceleratorState

    from fewstep.cli import _sentence

    AcceleratorState._reset_state(reset_partial_state=True)
    trace = "".join(traceback.format_exception(error))[-6000:]
    if isinstance(error, MemoryError) or not isinstance(error, ValueError | OSError):
        return "crashed", trace
    sentence = _sentence(error)
    readable = sentence.isprintable() and 0 < len(sentence) <= _LONGEST
    return ("refused", sentence) if readable else ("crashed", f"unreadable: {sentence[:500]!r}\n{trace}")


def _limit_memory() -> None:
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, held + ROOM))


def _be_quiet(path: Path) -> None:
    """What commands and libraries print goes to a file, also of their C code."""
    with path.open("w") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
