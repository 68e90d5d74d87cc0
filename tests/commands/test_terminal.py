"""The screen on real terminals, files and pipes, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.commands.terminal import Stream, seen

SCRIPT = """
import sys, time
from fewstep.commands.progress import Screen
data = "data" in sys.argv
screen = Screen(stdout_is_data=data)
screen.say("loading the teacher shapes (bfloat16, cpu)")
with screen.stage("4-step", 3) as on_step:
    for step in (1, 2, 3):
        time.sleep(0.06)
        on_step(step, 0.5 / step)
        if data:
            print(f"clip-{step}.mp4", flush=True)
screen.result("the end")
"""
LINES = ["loading the teacher shapes (bfloat16, cpu)", "4-step: training, 3 steps", "4-step: step 1/3, loss 0.5, peak"]


@pytest.mark.parametrize(
    ("stdout", "stderr", "bars", "lines"),
    [
        ("terminal", "terminal", True, None),
        ("file", "terminal", True, "stdout"),
        ("file", "file", False, "stdout"),
        ("pipe", "pipe", False, "stdout"),
        ("terminal", "file", False, "stderr"),
        ("pipe", "terminal", False, "stdout"),
    ],
)
def test_bars_and_lines(tmp_path: Path, stdout: Stream, stderr: Stream, bars: bool, lines: str | None) -> None:
    shown = seen([sys.executable, "-c", SCRIPT], tmp_path, stdout, stderr)
    assert shown.code == 0
    assert ("━" in shown.terminal) == bars
    texts = {"stdout": shown.stdout, "stderr": shown.stderr}
    for name, text in texts.items():
        assert all((line in text) == (name == lines) for line in LINES), (name, text)
        assert "\x1b" not in text and "nan" not in text
    assert "the end" in (shown.plain if stdout == "terminal" else shown.stdout)
    if bars:
        assert "4-step" in shown.plain and "3/3" in shown.plain and "nan" not in shown.plain
        assert LINES[0] in shown.plain


def test_data_on_standard_output_stays_data_under_a_bar(tmp_path: Path) -> None:
    """rich takes hold of standard output while a bar is shown, and would print the paths on the terminal."""
    shown = seen([sys.executable, "-c", SCRIPT, "data"], tmp_path, "file", "terminal")
    assert shown.stdout == "clip-1.mp4\nclip-2.mp4\nclip-3.mp4\nthe end\n"
    assert "━" in shown.terminal and "clip-1" not in shown.plain


def test_data_in_a_pipe_has_its_lines_on_standard_error(tmp_path: Path) -> None:
    shown = seen([sys.executable, "-c", SCRIPT, "data"], tmp_path, "pipe", "pipe")
    assert shown.stdout == "clip-1.mp4\nclip-2.mp4\nclip-3.mp4\nthe end\n" and LINES[2] in shown.stderr


def test_colours_that_someone_forces_stay_out_of_logs(tmp_path: Path) -> None:
    shown = seen([sys.executable, "-c", SCRIPT], tmp_path, "file", "file", FORCE_COLOR="1", TTY_COMPATIBLE="1")
    assert "\x1b" not in shown.stdout + shown.stderr and LINES[2] in shown.stdout


def test_a_terminal_without_cursor_gets_lines(tmp_path: Path) -> None:
    shown = seen([sys.executable, "-c", SCRIPT], tmp_path, "terminal", "terminal", TERM="dumb")
    assert "━" not in shown.terminal and LINES[2] in shown.plain


def test_a_narrow_terminal_still_shows_the_time_left(tmp_path: Path) -> None:
    slow = SCRIPT.replace("(1, 2, 3)", "(1, 2)").replace("3) as", "900) as")
    shown = seen([sys.executable, "-c", slow], tmp_path, "terminal", "terminal", columns=80)
    assert "s left" in shown.plain or "min left" in shown.plain
