"""Commands that are asked to stop, to save or to go: by schedulers, launchers, terminals and people."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cases.child_commands import command
from tests.cases.stopped_run import RECIPE, Stopped, curves, results, steps_kept, stop_somewhere, weights, write_recipe

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
