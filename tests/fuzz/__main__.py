"""`python -m tests.fuzz`: how many of so many bad inputs are accepted, refused in one sentence, crash or hang."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from tests.fuzz.names import NAMES
from tests.fuzz.worker import Found, work

PATIENCE = 20.0  # seconds of a processor in which an input is read, or hangs
_LONGEST = 300.0  # seconds by the clock
_BEGIN = 900.0  # in which a process has begun
_COUNTED = ("accepted", "refused", "crashed", "hung")


class Worker:
    """A process of `work`, and another one in its place once it hangs or dies."""

    def __init__(self, root: Path, seed: int, patience: float = PATIENCE) -> None:
        self._root, self._seed, self._patience = root, seed, patience
        self._start()

    def ask(self, name: str, number: int) -> Found:
        """What becomes of an input."""
        try:
            self._connection.send((name, number))
            if self._answers():
                answer: Found = self._connection.recv()
                return answer
            outcome = Found("hung", f"no answer in {self._patience:g} s of its processor's time, or {_LONGEST:g} s")
        except (EOFError, OSError, psutil.Error):
            self._process.join(10)
            outcome = Found("crashed", f"its process ended with {self._process.exitcode}")
        self.close()
        self._start()
        return outcome

    def _answers(self) -> bool:
        """Whether an answer comes in time: on a busy machine that is a processor's time, not the clock's."""
        process, end = psutil.Process(self._process.pid), time.monotonic() + _LONGEST
        used = sum(process.cpu_times()[:2])
        while not self._connection.poll(0.5):
            if sum(process.cpu_times()[:2]) - used > self._patience or time.monotonic() > end:
                return False
        return True

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _start(self) -> None:
        context = get_context("spawn")
        self._connection: Connection
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, self._root, self._seed), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(_BEGIN):
            raise RuntimeError("the process that reads inputs did not begin")
        self._connection.recv()


def fuzz(
    names: Sequence[str], num: int, seed: int, root: Path, failures: Path | None = None, quiet: bool = False
) -> list[dict[str, Any]]:
    """A row per surface: `num` inputs in all, the first surfaces with one more where they do not come out even.

    root: a folder for all that is written; with its `material`, if that is made already.
    """
    rows = []
    with closing(Worker(root, seed)) as worker:
        for place, name in enumerate(names):
            begun, each = time.monotonic(), num // len(names) + (place < num % len(names))
            row = _of_one(worker, name, each, failures)
            rows.append(row)
            if not quiet:
                figures = ", ".join(f"{row[key]} {key}" for key in (*_COUNTED, "executed"))
                print(f"{name}: {each} tried, {figures}, {time.monotonic() - begun:.0f} s", flush=True)
    return rows


def _of_one(worker: Worker, name: str, num: int, failures: Path | None) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for number in range(num):
        answer = worker.ask(name, number)
        counts[answer.outcome] += 1
        counts["executed"] += answer.executed
        if failures is not None:
            line = {"surface": name, "number": number, **vars(answer)}
            with failures.open("a") as file:
                file.write(json.dumps(line) + "\n")
    return {"surface": name, "tried": num} | {key: counts[key] for key in (*_COUNTED, "executed")}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints and writes the table; 1 where an input crashed, hung or ran code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num", type=int, default=10_000, help="inputs in all")
    parser.add_argument("--surface", action="append", choices=NAMES, help="only this one; may be said again")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the table")
    parser.add_argument("--each", type=Path, metavar="FILE.jsonl", help="write a line per input: what became of it")
    requested = parser.parse_args(arguments)
    if requested.each is not None:
        requested.each.write_text("")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        rows = fuzz(requested.surface or NAMES, requested.num, requested.seed, Path(folder), requested.each)
    total = {key: sum(row[key] for row in rows) for key in ("tried", *_COUNTED, "executed")}
    print(f"all: {', '.join(f'{count} {key}' for key, count in total.items())}")
    if requested.out is not None:
        requested.out.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    return int(bool(total["crashed"] or total["hung"] or total["executed"]))


if __name__ == "__main__":
    sys.exit(main())
