"""What a command shows while it works: bars on a terminal, plain lines elsewhere, and the same lines in a log file."""

from __future__ import annotations

import os
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, TextIO

from rich.console import Console

from fewstep.commands.pace import Pace, duration_text, line_is_due, seconds_text
from fewstep.commands.peak import peak_text
from fewstep.commands.tables import print_table
from fewstep.teacher.interrupts import RESUME, stopped_by

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

LOG = "log.txt"  # in the folder that a command writes
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # as accelerate reads them

# Seconds of each step of this bar, and the steps it has left -> seconds that the whole command has left
WholeLeft = Callable[[float, int], float]


class ProgressTarget(NamedTuple):
    """Where progress goes: bars on standard error, and lines on one of the streams, if on any."""

    bars: bool
    lines: Literal["stdout", "stderr"] | None


def progress_target(stdout_tty: bool, stderr_tty: bool, stdout_is_pipe: bool, stdout_is_data: bool) -> ProgressTarget:
    """Bars where a terminal reads standard error, and lines on standard output when it is not a terminal.

    So `> log`, `> log 2>&1` and a cluster's files all get lines, once. A pipe's reader usually prints on the same
    terminal (`| tee log`), so bars would be torn by lines there, and give way. `2> log` alone, or a command whose
    standard output is data, has its lines on standard error.
    """
    if stdout_tty or stdout_is_data:
        return ProgressTarget(stderr_tty, None if stderr_tty else "stderr")
    return ProgressTarget(stderr_tty and not stdout_is_pipe, "stdout")


class Screen:
    """Shows what one command does. Of several processes only the main one shows anything.

    `stdout_is_data`: what the command prints there is for other programs, and no line may come between. `quiet`: only
    the log file gets lines. Used as a context manager, it keeps an error that ends the block in the log file; the
    command line shows it. `command` is what was typed, for files that say how they were made.
    """

    def __init__(
        self, stdout_is_data: bool = False, clock: Callable[[], float] = time.monotonic, quiet: bool = False
    ) -> None:
        shown = progress_target(
            _is_terminal(sys.stdout), _is_terminal(sys.stderr) and not _is_dumb(), _is_pipe(sys.stdout), stdout_is_data
        )
        main = is_main_process()
        self.quiet, self._shows = quiet, main and not quiet
        self.clock = clock
        self.command = shlex.join(["fewstep", *sys.argv[1:]])
        self.console = Console(stderr=True) if shown.bars and self._shows else None
        self._lines = {"stdout": sys.stdout, "stderr": sys.stderr, None: None}[shown.lines] if self._shows else None
        self._log: Path | None = None
        self._early: list[str] | None = [] if main else None  # of the log, until there is a file

    def log_to(self, folder: Path) -> None:
        """From now on every line goes to `folder`/log.txt as well, those that were shown before first."""
        if self._early is None:
            return
        self._log, early, self._early = folder / LOG, self._early, None
        if _was_cut(self._log):
            early.insert(0, "")
        self._append("".join(line + "\n" for line in early))

    def say(self, sentence: str, style: str = "") -> None:
        """One line, above all before something slow; `style` is rich's, for terminals."""
        if self.console is not None:
            self.console.print(sentence, style=style, highlight=False, markup=False, soft_wrap=True)
        self.line(sentence)

    def result(self, sentence: str) -> None:
        """The last line: what came of it, on standard output wherever that goes."""
        if self._shows and sys.stdout is not None:
            _print(sentence, sys.stdout)
        self.log(sentence)

    def table(self, table: Table) -> None:
        """A table of what came of it, on standard output."""
        if self._shows:
            print_table(table)

    def warn(self, sentence: str) -> None:
        """One line that people should see."""
        self.say(sentence, "yellow")

    def line(self, sentence: str) -> None:
        """One line where there are lines: not on a terminal that shows bars."""
        text = " ".join(sentence.splitlines())
        if self._lines is not None:
            _print(text, self._lines)
        self.log(text)

    def log(self, text: str) -> None:
        """One line in the log file alone, with date and time."""
        stamped = f"{datetime.now().astimezone().isoformat(' ', 'seconds')} {text}"
        if self._early is not None:
            self._early.append(stamped)
        elif self._log is not None:
            self._append(stamped + "\n")

    @contextmanager
    def bar(self, name: str, unit: str = "step", whole: WholeLeft | None = None) -> Iterator[Bar]:
        """Progress of what `Bar.begin` will name."""
        with _rich_progress(self.console) as progress:
            bar = Bar(self, progress, name, unit, whole)
            try:
                yield bar
            except BaseException:
                if bar.total is not None:
                    self.log(f"{bar.name}: stopped after {unit} {bar.done} of {bar.total}")
                raise

    @contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator[Callable[[int, float], None]]:
        """A bar for training, given the steps done and the last loss."""
        self.say(f"{name}: resumed at step {done} of {total}" if done else f"{name}: training, {total} steps")
        with self.bar(name, whole=self._whole_left(name)) as bar:
            bar.begin(name, total, done)
            yield lambda step, loss: bar.update(step, loss=loss)
        if bar.done < total:  # asked to stop, it ended the step it was at
            self.line(f"{name}: stopped after step {bar.done} of {total}")

    @contextmanager
    def pieces(self, unit: str) -> Iterator[Callable[[str, int, int], None]]:
        """A bar for one piece of work after another, given what is going on, how much is done, and of how much."""
        with self.bar("", unit) as bar:

            def report(what: str, done: int, total: int) -> None:
                if (what, total) != (bar.name, bar.total):
                    bar.begin(what, total)
                bar.update(done)

            yield report

    def _whole_left(self, stage: str) -> WholeLeft | None:
        """How long the command has left, where a stage is only a part of it."""
        return None

    def _append(self, text: str) -> None:
        assert self._log is not None
        try:
            with self._log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:  # a log that cannot be written, as on a full disk, is no reason to end days of work
            pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop = None if error is None else stopped_by(error)
        if stop is not None or isinstance(error, KeyboardInterrupt):
            by = f" by {stop.name}" if stop else ""
            self.log(f"stopped{by}; {(stop and stop.kept) or RESUME}")
        elif isinstance(error, Exception):
            own = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
            self.log(f"failed: {own}{' '.join(str(error).split())}")


class Bar:
    """Progress of one piece of work after another."""

    def __init__(
        self, screen: Screen, progress: Progress | None, name: str, unit: str, whole: WholeLeft | None
    ) -> None:
        self.name, self.done, self._unit, self._whole = name, 0, unit, whole
        self.total: int | None = None  # until `begin`
        self._screen, self._progress = screen, progress
        self._task = None if progress is None else progress.add_task(name, total=None, visible=False, figures="")
        self._now = screen.clock()  # of the last report, which is when the next piece of work began

    def begin(self, name: str, total: int, done: int = 0) -> None:
        """The next piece of work is this one, of `total` units; `done` of them were done before."""
        self.name, self.total, self.done = name, total, done
        self._began, self._pace = self._now, Pace(done, self._now)
        self._last: float | None = None  # time of the last line
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=name, completed=done, total=total, figures="", visible=True)

    def update(self, done: int, loss: float | None = None, note: str = "") -> None:
        """`done` units are done by now; `note` says more of the last one."""
        assert self.total is not None, "begin comes first"
        news, self.done, self._now = done > self.done, done, self._screen.clock()
        self._pace.add(done, self._now)
        figures = self._figures(loss, note)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, figures=", ".join([*figures, *self._left("", "")]))
        # lines are rare, but the last unit has one
        if line_is_due(self._now, self._began, self._last) or (news and done >= self.total):
            self._last = self._now
            words = [f"{self._unit} {done}/{self.total}", *figures, *self._left("stage ", " left")]
            self._screen.line(f"{self.name}: {', '.join(words)}")

    def _figures(self, loss: float | None, note: str) -> list[str]:
        """Loss, seconds per unit and memory, as far as they are known."""
        texts = [note] if note else []
        if loss is not None:
            texts.append(f"loss {loss:.4g}")
        if self._pace.each is not None:
            texts.append(f"{seconds_text(self._pace.each)}/{self._unit}")
        return [*texts, peak_text()]

    def _left(self, own: str, end: str) -> list[str]:
        """The time left, in few words for a bar; nothing while it is not known."""
        left = (self.total or 0) - self.done
        if self._pace.each is None or left <= 0:
            return []
        time_left = duration_text(self._pace.each * left)
        if self._whole is None:
            return [f"{time_left} left"]
        return [f"{own}{time_left} left", f"run {duration_text(self._whole(self._pace.each, left))}{end}"]


def is_main_process() -> bool:
    """Whether this is the process, of those that a launcher started, that speaks for all; known before torch is."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


@contextmanager
def _rich_progress(console: Console | None) -> Iterator[Progress | None]:
    if console is None:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    # rich would lead what is printed meanwhile to the bar's stream, and so to a terminal instead of a file
    with Progress(*columns, console=console, redirect_stdout=_is_terminal(sys.stdout)) as progress:
        yield progress


def _print(text: str, stream: TextIO) -> None:
    """Prints a line at once; what cannot be shown is escaped, and a closed stream is left alone."""
    encoding = stream.encoding or "utf-8"
    try:
        whole = f"{text}\n".encode(encoding, "backslashreplace").decode(encoding)
        print(whole, end="", file=stream, flush=True)  # at once: a signal comes between a text and its own end of line
    except BrokenPipeError:  # its reader has gone: the work continues, and the log file has the line
        _forget(stream)
    except OSError:  # the disk is full
        pass


def _forget(stream: TextIO) -> None:
    """What the stream still holds must not fail again when Python ends."""
    try:
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, stream.fileno())
        os.close(descriptor)
    except (OSError, ValueError):
        pass


def _was_cut(log: Path) -> bool:
    """Whether a kill left the last line without its end."""
    try:
        return log.read_bytes()[-1:] not in (b"", b"\n")
    except OSError:  # there is none, or it is not ours
        return False


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _is_dumb() -> bool:
    return os.environ.get("TERM", "") in ("dumb", "unknown")


def _is_pipe(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # closed, or a test's
        return False
