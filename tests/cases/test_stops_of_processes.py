"""Two processes of one run: a signal that one of them gets, or both; and what the other does when one ends."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fewstep.teacher.interrupts import RESUME
from tests.cases.child_commands import appears, wait_until
from tests.cases.pair import Pair
from tests.cases.stopped_run import STEPS, saved, steps_done, steps_kept, trained, write_recipe

CheckCase = Callable[..., None]
KIND = "08 several processes"
LEFT_ALONE = "another process of this run has ended, and its own message, if it left one, says why"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("ranks", "who"), [((1,), "one of two"), ((0, 1), "both"), ((0,), "the first")])
def test_all_stop_at_the_same_step(
    check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, ranks: tuple[int, ...], who: str
) -> None:
    recipe, run = write_recipe(tmp_path, tiny_wan_folder), tmp_path / "run"
    pair = Pair(tmp_path, "run", recipe)
    wait_until(trained(run, 3), lambda: pair.run)
    pair.send(signal.SIGTERM, *ranks)
    first, second = pair.ends()
    stage, step = saved(run)
    kept = f"stage {stage} is at step {step} of {STEPS[stage]}, saved in {run / 'state.pt'}"
    sentence = f"stopped by SIGTERM; {kept}; {RESUME}"
    expected = f"exit 143: {sentence} / exit 143: process 1: {sentence}"
    check_case(KIND, f"SIGTERM to {who}", f"{first} / {second}", expected)


def test_a_warning_to_one_saves(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path) -> None:
    logging: dict[str, Any] = {"every": 1, "tracker": "none"}
    recipe, run = write_recipe(tmp_path, tiny_wan_folder, logging=logging), tmp_path / "run"
    pair = Pair(tmp_path, "run", recipe)
    wait_until(trained(run, 3), lambda: pair.run)
    pair.send(signal.SIGUSR1, 1)
    wait_until(appears(run, "state.pt"), lambda: pair.run)
    step = saved(run)[1]
    pair.send(signal.SIGKILL, 0, 1)
    pair.ends()
    got = f"saved {step > 0} {(tmp_path / 'log-0').read_text()}"
    check_case(KIND, "SIGUSR1 to one of two", got, ["saved True", f"4-step is at step {step} of", "training continues"])


def test_a_stop_while_both_make_the_data(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path) -> None:
    data = {"kind": "rollouts", "prompts": "prompts.txt", "steps": 100, "batch": 1}
    recipe, run = write_recipe(tmp_path, tiny_wan_folder, data=data), tmp_path / "run"
    pair = Pair(tmp_path, "run", recipe)
    wait_until(appears(run, "data/.shard-*"), lambda: pair.run)
    pair.send(signal.SIGTERM, 1)
    first, second = pair.ends()
    check_case(
        KIND, "SIGTERM to one while both make the data", f"{first} / {second}",
        ["exit 143: stopped by SIGTERM; ", RESUME, "/ exit 143: process 1: stopped by SIGTERM; ", RESUME],
    )  # fmt: skip


def test_a_process_that_is_killed(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path) -> None:
    """As where memory runs out."""
    recipe, run = write_recipe(tmp_path, tiny_wan_folder), tmp_path / "run"
    pair = Pair(tmp_path, "run", recipe)
    wait_until(trained(run, 3), lambda: pair.run)
    done = steps_done(run)
    pair.send(signal.SIGKILL, 1)
    first, _ = pair.ends()
    got = f"{first}; steps lost {max(0, done - steps_kept(run))}"
    check_case(KIND, "one is killed", got, ["exit 2: ", LEFT_ALONE, RESUME, "steps lost 0"])


def test_a_process_that_fails(check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path) -> None:
    recipe, run = write_recipe(tmp_path, tiny_wan_folder), tmp_path / "run"
    first, second = Pair(tmp_path, "run", recipe, broken=broken).ends()
    got = f"{first} / {second}; steps {steps_kept(run)}"
    check_case(
        KIND, "one cannot read its data", got,
        ["exit 2: ", LEFT_ALONE, RESUME, "/ exit 2: process 1: the disk of node 1 is broken; steps 4"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("number", "who", "expected"),
    [
        (
            signal.SIGTERM,
            "SIGTERM to one",
            ["exit 143: stopped by SIGTERM; stage 4-step is at step", "/run/state; ", RESUME],
        ),
        (
            signal.SIGINT,
            "Ctrl-C to one",
            ["exit 130: stopped by Ctrl-C; stage 4-step is at step", "/run/state; ", RESUME],
        ),
        (signal.SIGKILL, "one is killed", ["exit 2: ", LEFT_ALONE, RESUME]),
    ],
)
def test_processes_that_hold_parts_end_together(
    check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, number: int, who: str, expected: list[str]
) -> None:
    recipe, run = write_recipe(tmp_path, tiny_wan_folder, parallel={"kind": "fsdp"}), tmp_path / "run"
    pair = Pair(tmp_path, "run", recipe)
    wait_until(trained(run, 3), lambda: pair.run)
    pair.send(number, 1)
    first, second = pair.ends()
    same = second == first.replace(": stopped", ": process 1: stopped", 1)
    check_case(KIND, f"{who} of two, sharded", f"{first}; both alike {same}", [*expected, f"alike {number != 9}"])


def broken() -> None:
    """The fifth step finds no data."""
    from fewstep.distill.batches import Batches
    from fewstep.distill.objectives.base import Batch

    batch = Batches.batch

    def fail(batches: Batches, position: int, size: int, progress: float) -> Batch:
        if position == 4:
            raise ValueError("the disk of node 1 is broken")
        return batch(batches, position, size, progress)

    setattr(Batches, "batch", fail)  # noqa: B010
