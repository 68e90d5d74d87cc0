"""`make soak`: commands killed, stopped and short of room again and again, and whether their ends are the same.

A tiny random teacher, a run of two stages, its export and its evaluation. Each is first left alone; what is stopped at
random moments must end with the same bytes.
"""

from __future__ import annotations

import argparse
import random
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fewstep.eval.results import write_tables
from tests.cases.child_commands import Command, after, command, wait_until
from tests.cases.pair import Pair
from tests.cases.stopped_run import curves, results, weights, write_recipe
from tests.cases.test_disk_full import small_disk
from tests.tiny_pipelines import save_tiny_wan

COLUMNS = {
    "fault": "fault",
    "command": "command",
    "times": "times",
    "survived": "survived",
    "lost": "lost",
    "ends": "runs that ended",
    "seconds": "seconds",
}
LIMIT_SECONDS = 30  # within which all processes of a run must have ended once one is dead
Row = dict[str, Any]


def main() -> None:
    """Writes the table, and ends with 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/soak.json"))
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of faults")
    arguments = parser.parse_args()
    text, rows = shlex.join(["python", "-m", "tests.soak", *sys.argv[1:]]), list[Row]()
    with TemporaryDirectory() as folder:
        soak = Soak(Path(folder), random.Random(arguments.seed), arguments.share)
        for row in soak.rows():
            print(row, flush=True)
            rows.append(row)
            write_tables(arguments.out, text, rows, COLUMNS)
    sys.exit(any(row["lost"] for row in rows))


class Soak:
    """The folder that everything lies in, and what an undisturbed run made there."""

    def __init__(self, folder: Path, rng: random.Random, share: float) -> None:
        self._folder, self._rng, self._share = folder, rng, share
        save_tiny_wan(folder / "teacher")
        self._recipe = write_recipe(folder, folder / "teacher")
        self._run = folder / "run"
        self._timed("--version")  # all imports are made now, and are in nobody's seconds
        self._seconds = {"run": self._timed("run", self._recipe)}
        self._whole = _of_run(self._run)

    def rows(self) -> Iterator[Row]:
        """A row per fault and command."""
        yield self._killed_runs(signal.SIGKILL, self._times(50))
        yield self._killed_runs(signal.SIGTERM, self._times(10))
        for verb, arguments, times in (
            ("export", ["export", self._run, "--to", "diffusers"], self._times(8)),
            ("evaluate", self._evaluation(), self._times(8)),
            ("data rollouts", ["data", "rollouts", *self._rollouts()], self._times(8)),
        ):
            yield self._killed_verb(verb, arguments, times)
        yield self._full_disks(self._times(8))
        yield self._dead_ranks(self._times(4))

    def _times(self, usual: int) -> int:
        return max(1, round(usual * self._share))

    def _evaluation(self) -> list[object]:
        prompts = ["--prompts", self._folder / "prompts.txt", "--num", 8]
        return ["evaluate", f"student={self._run}", *prompts, "--metrics", "motion", "--dtype", "float32"]

    def _rollouts(self) -> list[object]:
        return [self._folder / "prompts.txt", "--teacher", self._folder / "teacher", "--steps", 4, "--count", 4]

    def _timed(self, *arguments: object) -> float:
        began = time.monotonic()
        code, output = command(self._folder / "log", *arguments)
        assert code == 0, output
        return time.monotonic() - began

    def _killed_runs(self, number: int, times: int) -> Row:
        """Runs, each from nothing, that get a signal again and again until one command reaches the end."""
        began, count, lost, ends = time.monotonic(), 0, 0, 0
        while count < times:
            run, own = self._folder / f"run-{number}-{ends}", 0
            arguments = ["run", self._recipe, "--set", f"out={run}"]
            # within half of its usual seconds: a run gets further with every command, and is stopped several times
            while self._interrupted(number, self._seconds["run"] / 2, arguments, give_up=count + own >= times):
                own += 1
            ends += 1
            count += own
            lost += 0 if _of_run(run) == self._whole else own or 1
        return _row(signal.Signals(number).name, "run", count, lost, ends, began)

    def _interrupted(self, number: int, seconds: float, arguments: list[object], give_up: bool) -> bool:
        """Whether the command was stopped at a random moment of its first `seconds`, and did not end before; one
        that is given up is left alone. A command that fails by itself ends the soak."""
        child = Command(self._folder / "log", *arguments)
        if not give_up:
            wait_until(after(self._rng.uniform(0, seconds)), lambda: child.runs)
        stopped = not give_up and child.runs
        if stopped:
            child.send(number)
        code, output = child.finish(600)
        expected = (-signal.SIGKILL, 128 + signal.SIGTERM, 0) if stopped else (0,)
        assert code in expected, f"{arguments} ended with {code}: {output[-2000:]}"
        return stopped and code != 0

    def _killed_verb(self, verb: str, arguments: list[object], times: int) -> Row:
        """A command that is killed until it has been so often enough; every end must have the bytes of an undisturbed
        one."""
        began, whole = time.monotonic(), self._folder / f"{verb}-whole"
        seconds = self._timed(*arguments, "--out", whole)
        count, lost, ends = 0, 0, 0
        while count < times:
            out, own = self._folder / f"{verb}-{ends}", 0
            requested = [*arguments, "--out", out]
            while self._interrupted(signal.SIGKILL, seconds, requested, give_up=count + own >= times):
                own += 1
            ends += 1
            count += own
            lost += 0 if _bytes_of(out) == _bytes_of(whole) else own or 1
        return _row("SIGKILL", verb, count, lost, ends, began)

    def _full_disks(self, times: int) -> Row:
        """A run on a disk that is too small again and again, with a little more room each time."""
        began, disk = time.monotonic(), self._folder / "disk"
        with small_disk(disk, 64) as resize:
            arguments = ["run", self._recipe, "--set", f"out={disk / 'run'}"]
            for kib in sorted(self._rng.sample(range(100, 2200, 50), times)):
                resize(kib)
                code, output = command(self._folder / "log", *arguments)
                assert code == 2 and "no space left" in output.splitlines()[-1], output[-2000:]
            resize(100_000)
            code, output = command(self._folder / "log", *arguments)
            assert code == 0, output
            lost = 0 if _of_run(disk / "run") == self._whole else times
        return _row("full disk", "run", times, lost, 1, began)

    def _dead_ranks(self, times: int) -> Row:
        """One of two processes is killed at a random moment: the other must end soon, and the run go on as it was."""
        began, folder = time.monotonic(), self._folder / "pair"
        folder.mkdir()
        left_alone, lost = self._pair_recipe(folder / "alone"), 0
        seconds = time.monotonic()
        assert all(end.startswith("exit 0") for end in Pair(folder, "run", left_alone).ends())
        seconds = time.monotonic() - seconds
        disturbed = self._pair_recipe(folder / "disturbed")
        for _ in range(times):
            pair, rank = Pair(folder, "run", disturbed), self._rng.randrange(2)
            wait_until(after(self._rng.uniform(0.2, 0.8) * seconds), lambda pair=pair: pair.run)  # type: ignore[misc]
            pair.send(signal.SIGKILL, rank)
            died = time.monotonic()
            pair.ends()
            lost += time.monotonic() - died > LIMIT_SECONDS
        assert all(end.startswith("exit 0") for end in Pair(folder, "run", disturbed).ends())
        lost += 0 if _of_run(folder / "alone" / "run") == _of_run(folder / "disturbed" / "run") else times
        return _row("dead rank", "run, 2 processes", times, min(lost, times), 1, began)

    def _pair_recipe(self, folder: Path) -> Path:
        folder.mkdir()
        return write_recipe(folder, self._folder / "teacher")


def _row(fault: str, verb: str, times: int, lost: int, ends: int, began: float) -> Row:
    seconds = round(time.monotonic() - began, 1)
    return {
        "fault": fault,
        "command": verb,
        "times": times,
        "survived": times - lost,
        "lost": lost,
        "ends": ends,
        "seconds": seconds,
    }


def _of_run(run: Path) -> list[object]:
    """What an uninterrupted run must be equal to: weights, curves, results."""
    return [weights(run), curves(run), results(run)]


def _bytes_of(folder: Path) -> dict[str, bytes]:
    """Of every file that a command makes of its inputs alone; logs and files with seconds in them are left out."""
    kept = (".safetensors", ".parquet", ".jsonl", ".mp4", ".png")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in kept and path.is_file()
    }


if __name__ == "__main__":
    main()
