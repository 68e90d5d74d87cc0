"""The screen of every command: where its lines go, what they say, and that a log file has them all."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewstep.commands import progress
from fewstep.commands.progress import ProgressTarget, Screen, progress_target
from fewstep.commands.run_screen import RunScreen
from fewstep.commands.tables import print_table
from fewstep.distill.estimate import StageWork

STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d ")


class Clock:
    """Time that a test decides."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    monkeypatch.setattr(progress, "peak_text", lambda: "peak 1.2 GiB")
    yield Clock()


def log(folder: Path) -> list[str]:
    """The lines of a log without their times."""
    lines_of_log = (folder / "log.txt").read_text("utf-8").splitlines()
    assert all(STAMP.match(line) for line in lines_of_log)
    return [STAMP.sub("", line) for line in lines_of_log]


@pytest.mark.parametrize(
    ("stdout_tty", "stderr_tty", "stdout_is_pipe", "stdout_is_data", "shown"),
    [
        (True, True, False, False, ProgressTarget(True, None)),
        (False, True, False, False, ProgressTarget(True, "stdout")),  # > log
        (False, False, False, False, ProgressTarget(False, "stdout")),  # > log 2>&1, or a cluster's two files
        (True, False, False, False, ProgressTarget(False, "stderr")),  # 2> log
        (False, True, True, False, ProgressTarget(False, "stdout")),  # | tee log
        (False, False, True, False, ProgressTarget(False, "stdout")),
        (False, True, False, True, ProgressTarget(True, None)),  # sample ... > paths
        (False, False, True, True, ProgressTarget(False, "stderr")),  # $(sample ...) in a script
        (True, False, False, True, ProgressTarget(False, "stderr")),
    ],
)
def test_where_progress_goes(
    stdout_tty: bool, stderr_tty: bool, stdout_is_pipe: bool, stdout_is_data: bool, shown: ProgressTarget
) -> None:
    assert progress_target(stdout_tty, stderr_tty, stdout_is_pipe, stdout_is_data) == shown


def test_a_stage_says_step_loss_pace_memory_and_both_times_left(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = RunScreen(clock=clock)
    screen.say("reading the recipe x")
    screen.log_to(tmp_path)
    screen.expect([StageWork("8-step", 10, 200), StageWork("4-step", 10, 1000), StageWork("2-step", 30, 900)])
    with screen.stage("4-step", 100, 10) as on_step:
        for step in range(11, 32):
            clock.now += 2
            on_step(step, 1 / step)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "reading the recipe x",
        "4-step: resumed at step 10 of 100",
        "4-step: step 11/100, loss 0.09091, peak 1.2 GiB",
        # 84 steps of 2 s; 2-step's 900 units are 90 steps of this stage
        "4-step: step 16/100, loss 0.0625, 2 s/step, peak 1.2 GiB, stage 3 min left, run 6 min left",
        "4-step: step 21/100, loss 0.04762, 2 s/step, peak 1.2 GiB, stage 3 min left, run 6 min left",
        "4-step: step 26/100, loss 0.03846, 2 s/step, peak 1.2 GiB, stage 2 min left, run 5 min left",
        "4-step: step 31/100, loss 0.03226, 2 s/step, peak 1.2 GiB, stage 2 min left, run 5 min left",
        "4-step: stopped after step 31 of 100",
    ]
    assert log(tmp_path) == printed


def test_the_last_step_has_its_line_and_no_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(clock=clock).stage("s", 3) as on_step:
        for step in (1, 2, 3):
            clock.now += 0.5
            on_step(step, 0.5)
    assert capsys.readouterr().out.splitlines() == [
        "s: training, 3 steps",
        "s: step 1/3, loss 0.5, peak 1.2 GiB",
        "s: step 3/3, loss 0.5, 0.5 s/step, peak 1.2 GiB",
    ]


def test_pieces_of_work_are_timed_apart(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(clock=clock).pieces("clip") as report:
        for what, seconds in (("teacher, clips", 10), ("student, clips", 1)):
            for done in (8, 16, 24):
                clock.now += seconds
                report(what, done, 24)
    assert capsys.readouterr().out.splitlines() == [
        "teacher, clips: clip 8/24, peak 1.2 GiB",
        "teacher, clips: clip 16/24, 1.2 s/clip, peak 1.2 GiB, 10 s left",
        "teacher, clips: clip 24/24, 1.2 s/clip, peak 1.2 GiB",
        "student, clips: clip 8/24, peak 1.2 GiB",
        "student, clips: clip 24/24, 0.12 s/clip, peak 1.2 GiB",
    ]


def test_data_that_goes_on_says_where(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with RunScreen(clock=clock).clips() as on_clip:
        for done in (129, 130):
            clock.now += 11
            on_clip(done, 512)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "data: resumed at clip 128 of 512" and second == "data: clip 129/512, peak 1.2 GiB"
    assert third == "data: clip 130/512, 11 s/clip, peak 1.2 GiB, 70 min left"


def test_a_log_goes_on_behind_a_line_that_a_kill_cut(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("2026-01-01 00:00:00+00:00 4-step: step 12/1")
    screen = Screen(clock=clock)
    screen.say("again")
    screen.log_to(tmp_path)
    assert log(tmp_path) == ["4-step: step 12/1", "again"]


def test_a_log_says_how_it_ended(clock: Clock, tmp_path: Path) -> None:
    for error in (KeyboardInterrupt(), ValueError("a gate\nis shut"), RuntimeError("no kernel")):
        screen = Screen(clock=clock)
        screen.log_to(tmp_path)
        with pytest.raises(type(error)), screen, screen.stage("s", 5) as on_step:
            on_step(1, 0.5)
            raise error
    ends = [line for line in log(tmp_path) if line.startswith(("stopped", "failed", "s: stopped"))]
    assert ends == [
        "s: stopped after step 1 of 5", "stopped; run the same command again to resume",
        "s: stopped after step 1 of 5", "failed: a gate is shut",
        "s: stopped after step 1 of 5", "failed: RuntimeError: no kernel",
    ]  # fmt: skip


def test_a_stage_that_was_asked_to_stop_says_where(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Screen(clock=clock).stage("s", 5) as on_step:
        on_step(2, 0.5)
    assert capsys.readouterr().out.splitlines()[-1] == "s: stopped after step 2 of 5"


def test_other_processes_say_nothing(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    screen = Screen(clock=clock)
    screen.log_to(tmp_path)
    screen.say("hello")
    with screen.stage("s", 2) as on_step:
        on_step(1, 0.5)
    screen.result("done")
    assert capsys.readouterr() == ("", "") and not (tmp_path / "log.txt").exists()


def test_a_log_that_cannot_be_written_ends_nothing(clock: Clock, tmp_path: Path) -> None:
    screen = Screen(clock=clock)
    screen.log_to(tmp_path)
    (tmp_path / "log.txt").unlink()
    (tmp_path / "log.txt").mkdir()  # as good as a full disk
    with screen.stage("s", 2) as on_step:
        on_step(1, 0.5)


def test_what_a_stream_cannot_show_is_escaped(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", latin)
    Screen(clock=clock).say("Füße \u2192 \udcff\nnext")
    latin.seek(0)
    assert latin.buffer.read().decode("latin-1") == "Füße \\u2192 \\udcff next\n"


def test_a_reader_that_has_gone_ends_nothing(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `| head` leaves a run: it goes on, and Python ends without a word about its buffer."""
    reader, writer = os.pipe()
    os.close(reader)
    pipe = os.fdopen(writer, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    screen = Screen(clock=clock)
    screen.log_to(tmp_path)
    screen.say("one")
    screen.say("two")
    pipe.close()
    assert log(tmp_path) == ["one", "two"]


def test_a_table_in_a_file_is_as_wide_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.table import Table

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    table = Table(*(f"a long heading {i}" for i in range(12)), title="title")
    table.add_row(*(f"a long cell {i}" for i in range(12)))
    print_table(table)
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and any("a long cell 0" in x and "a long cell 11" in x for x in printed.splitlines())
