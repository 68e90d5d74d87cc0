"""Commands that are asked to stop, to save or to go: by schedulers, launchers, terminals and people."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest

from fewstep.teacher.interrupts import RESUME
from tests.cases.child_commands import Command, command, end_of, signalled, slow_disk, wait_until
from tests.cases.stopped_run import (
    RECIPE,
    STEPS,
    Stopped,
    curves,
    results,
    saved,
    steps_done,
    steps_kept,
    stop_somewhere,
    trained,
    weights,
    write_recipe,
)

CheckCase = Callable[..., None]


@pytest.mark.slow
def test_twenty_stops_at_random_moments(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path) -> None:
    recipe, rng = write_recipe(tmp_path, tiny_wan_folder), random.Random(17)
    whole = tmp_path / "whole"
    assert command(tmp_path / "log", "run", recipe, "--set", f"out={whole}")[0] == 0
    runs, stops = [tmp_path / "stopped-0"], list[Stopped]()
    while len(stops) < 20:
        arguments: list[object] = ["run", recipe, "--set", f"out={runs[-1]}"]
        stop = stop_somewhere(runs[-1], arguments, tmp_path / "log", rng, signal.SIGTERM)
        if stop.code == 0:  # it was quicker than the signal
            runs.append(tmp_path / f"stopped-{len(runs)}")
        else:
            stops.append(stop)
    assert command(tmp_path / "log", "run", recipe, "--set", f"out={runs[-1]}")[0] == 0
    kind = "08 SIGTERM at random moments"
    check_case(kind, "exit codes of 20 stops", sorted({str(stop.code) for stop in stops}), "['143']")
    wrong = [stop.output for stop in stops if "Traceback" in stop.output or not stop.line.startswith("stopped by SIG")]
    check_case(kind, "stops that end in anything but their sentence", wrong, "[]")
    mute = [stop.line for stop in stops if "run the same command again to resume" not in stop.line]
    check_case(kind, "sentences that do not say how to resume", mute, "[]")
    stated = [(stop, re.search(r"stage (\S+) is at step (\d+) of", stop.line)) for stop in stops]
    other = [s.line for s, match in stated if match and int(match[2]) and (match[1], int(match[2])) != s.checkpoint]
    check_case(kind, "sentences that name another step than the checkpoint's", other, "[]")
    check_case(kind, "finished steps that a stop lost", sum(max(0, s.done - s.kept) for s in stops), "0")
    moments = "in training" if any("is at step" in stop.line for stop in stops) else "never in training"
    moments += " and before it" if any("is at step" not in stop.line for stop in stops) else ""
    check_case(kind, "moments of the 20 stops", moments, "in training and before it")
    for run in runs:
        same = [find(run) == find(whole) != {} for find in (weights, curves, results)]
        check_case(kind, f"{run.name}: weights, curves, figures as of an uninterrupted run", same, "[True, True, True]")
        counted = [[point["step"] for point in points if "student/loss" in point] for points in curves(run).values()]
        complete = [sorted(steps) == list(range(1, len(steps) + 1)) for steps in counted]
        check_case(kind, f"{run.name}: every step is once on its curve", complete, "[True, True]")
    assert steps_kept(whole) == sum(stage["steps"] for stage in RECIPE["stages"])


SIGNALS: dict[int, tuple[int, str]] = {
    signal.SIGINT: (130, "Ctrl-C"),
    signal.SIGTERM: (143, "SIGTERM"),
    signal.SIGHUP: (129, "SIGHUP"),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_each_signal_that_stops(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, number: int) -> None:
    recipe, (code, name) = write_recipe(tmp_path, tiny_wan_folder), SIGNALS[number]
    outcome = end_of(*signalled(tmp_path / "log", number, trained(tmp_path / "run", 3), "run", recipe))
    stage, step = saved(tmp_path / "run")
    kept = f"stage {stage} is at step {step} of {STEPS[stage]}, saved in {tmp_path / 'run' / 'state.pt'}"
    check_case("08 signals that stop a run", name, outcome, f"exit {code}: stopped by {name}; {kept}; {RESUME}")


def ignored(number: int) -> None:
    """As under nohup, or for a background job of a shell script."""
    signal.signal(number, signal.SIG_IGN)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1], ids=lambda n: signal.Signals(n).name)
def test_signals_that_are_ignored(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, number: int) -> None:
    stages = [stage | {"steps": 10} for stage in RECIPE["stages"]]
    recipe = write_recipe(tmp_path, tiny_wan_folder, stages=stages)
    ignore = partial(ignored, number)
    outcome = signalled(tmp_path / "log", number, trained(tmp_path / "run", 3), "run", recipe, before=ignore)
    got = f"{end_of(*outcome)} {'saved in' in outcome[1]}"
    check_case("08 ignored signals", signal.Signals(number).name, got, ["exit 0: the student is in", "False"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2], ids=lambda n: signal.Signals(n).name)
def test_warnings_save_and_go_on(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, number: int) -> None:
    stages = [stage | {"steps": 10} for stage in RECIPE["stages"]]
    recipe = write_recipe(tmp_path, tiny_wan_folder, stages=stages, logging=RECIPE["logging"] | {"save_seconds": 1000})
    code, output = signalled(tmp_path / "log", number, trained(tmp_path / "run", 3), "run", recipe)
    text = next((line for line in output.splitlines() if "training continues" in line), "nothing said")
    check_case(
        "08 warnings in a run",
        signal.Signals(number).name,
        f"{text} {end_of(code, output)}",
        [
            "-step is at step",
            f"saved in {tmp_path / 'run' / 'state.pt'}; training continues",
            "exit 0: the student is in",
        ],
    )


@pytest.mark.slow
def test_a_second_stop_cuts_the_first_one_short(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path) -> None:
    """The save hangs, as on a network's disk; the checkpoint before it stays."""
    stages = [RECIPE["stages"][0] | {"steps": 6}]
    recipe = write_recipe(tmp_path, tiny_wan_folder, stages=stages)
    run, log = tmp_path / "run", tmp_path / "log"
    signalled(log, signal.SIGTERM, trained(run, 1), "run", recipe)
    kept = saved(run)
    child = Command(log, "run", recipe, before=slow_disk)
    while child.runs and not list(run.glob(".state.part.pt")):
        time.sleep(0.01)
    child.send(signal.SIGTERM)
    time.sleep(2.2)
    child.send(signal.SIGTERM)
    outcome = end_of(*child.finish(60))
    got = f"{outcome}; checkpoint as before: {saved(run) == kept}; parts {list(run.glob('.*.part*'))}"
    check_case(
        "08 signals that stop a run", "SIGTERM twice while a checkpoint is written", got,
        ["exit 143: stopped by SIGTERM; ", RESUME, "checkpoint as before: True; parts []"],
    )  # fmt: skip
    check_case(
        "08 signals that stop a run", "the same command after two signals",
        end_of(*command(log, "run", recipe)), ["exit 0: the student is in"],
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.7, 1.5, 2.5])
def test_a_stop_while_libraries_are_imported(
    check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, seconds: float
) -> None:
    """The command itself, which imports torch for seconds."""
    recipe = write_recipe(tmp_path, tiny_wan_folder)
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "fewstep", "run", recipe], stdout=file, stderr=file)
        time.sleep(seconds)
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    check_case(
        "08 SIGTERM before anything is there", f"{seconds} s after the start", end_of(code, log.read_text()),
        f"exit 143: stopped by SIGTERM; {RESUME}: what was finished is kept",
    )  # fmt: skip


@pytest.mark.slow
def test_the_reader_of_our_output_ends_first(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path) -> None:
    """A signal to the whole process group ends `tee` as well."""
    recipe, run = write_recipe(tmp_path, tiny_wan_folder), tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-m", "fewstep", "run", recipe], stdout=PIPE, stderr=PIPE)
    wait_until(trained(run, 3), lambda: process.poll() is None)
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    done = steps_done(run)
    process.send_signal(signal.SIGTERM)
    got = f"exit {process.wait(60)}, steps lost {max(0, done - steps_kept(run))}"
    check_case("08 signals that stop a run", "SIGTERM to the group, `| tee` gone", got, "exit 143, steps lost 0")


@pytest.mark.slow
def test_the_terminal_closes(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path) -> None:
    """As when an ssh session breaks: SIGHUP, and nothing more can be printed."""
    recipe, run = write_recipe(tmp_path, tiny_wan_folder), tmp_path / "run"
    process, terminal = pty.fork()
    if process == 0:
        os.execv(sys.executable, [sys.executable, "-m", "fewstep", "run", str(recipe)])
    threading.Thread(target=drain, args=(terminal,), daemon=True).start()
    wait_until(trained(run, 3), lambda: True)
    done = steps_done(run)
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    got = f"exit {code}, steps lost {max(0, done - steps_kept(run))}"
    check_case("08 signals that stop a run", "a terminal that closes", got, "exit 129, steps lost 0")


def drain(terminal: int) -> None:
    """Reads what a terminal shows, until it is closed."""
    with suppress(OSError):
        while os.read(terminal, 1024):
            pass
