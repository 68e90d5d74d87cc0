"""The demo's promise of minutes on machines of all kinds, and idle OpenMP threads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fewstep.commands import demo_speed, run_stages
from fewstep.commands.demo_plan import Speed, choose_plan, plan_sentences
from fewstep.commands.run_precision import resolve_precision
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import RunFolder
from tests.cases.record import outcome
from tests.commands.typed import fewstep
from tests.test_waiting_threads import at_torch

DEMO, THREADS = "18 demo minutes", "19 idle threads"

# Seconds of a training step, a guided step and a decode of 16 clips.
QUIET = Speed(0.9, 0.16, 1.0)  # two cores with AVX512-BF16
AVX2 = Speed(1.25, 0.25, 1.0)  # the same with AVX2 alone, in float32
EMULATED = Speed(6.0, 1.0, 1.0)  # the same, were it in bfloat16
OLD = Speed(2.3, 0.45, 2.5)
GPU = Speed(0.02, 0.004, 0.02)


def plan_line(speed: Speed, minutes: float, clips: int | None = None) -> str:
    return ". ".join(plan_sentences(choose_plan(speed, minutes, clips), speed, minutes))


@pytest.mark.parametrize(
    ("case", "speed", "minutes", "expected"),
    [
        ("the usual machine", QUIET, 10, ["160 + 140 + 40 training steps on 192 prompts, 64 clips", "about 9 minutes"]),
        ("AVX2 alone, float32", AVX2, 10, ["128 + 112 + 32 training steps", "48 clips give prompt accuracy within"]),
        (
            "a machine half as fast", OLD, 10,
            ["64 + 56 + 16 training steps", "24 clips give prompt accuracy within ±14 points", "about 22 minutes here"],
        ),
        ("bfloat16 that is emulated", EMULATED, 10, ["40 + 35 + 10 training steps", "too slow for 10 minutes"]),
        ("a GPU", GPU, 10, ["480 + 240 + 50 training steps on 576 prompts, 192 clips"]),
        ("a slow machine with an hour", OLD, 60, ["400 + 240 + 50 training steps", "160 clips"]),
        ("the usual machine with three minutes", QUIET, 3, ["40 + 35 + 10 training steps", "16 clips give"]),
        ("the usual machine with a minute", QUIET, 1, ["40 + 35 + 10 training steps", "too slow for 1 minute,"]),
        ("no limit", QUIET, float("inf"), ["480 + 240 + 50 training steps"]),
        ("no number", QUIET, float("nan"), ["refused: --minutes is not a number"]),
    ],
)  # fmt: skip
def test_what_fits(
    case: str, speed: Speed, minutes: float, expected: list[str], check_case: Callable[..., None]
) -> None:
    check_case(DEMO, f"{case}, --minutes {minutes:g}", outcome(lambda: plan_line(speed, minutes)), expected)


def test_clips_that_were_asked_for(check_case: Callable[..., None]) -> None:
    check_case(
        DEMO,
        "--num 256 on the usual machine",
        plan_line(QUIET, 10, 256),
        ["256 clips of each model", "96 + 84 + 24", "with 256 clips that"],
    )


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo stops where its training has begun."""

    def stop(plan: Recipe, **shown: object) -> None:
        RunFolder(plan.out).begin(resolve_precision(plan)[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(run_stages, "follow_stages", stop)


def numbers(out: Path) -> str:
    """What the run's recipe holds, and the demo's own file."""
    recipe, plan = RunFolder(out), json.loads((out / "demo.json").read_text())
    text = (recipe.path / "recipe.yaml").read_text()
    steps = [line.split(": ")[1] for line in text.splitlines() if line.startswith("  steps: ")][1:]  # not the data's
    return f"{' + '.join(steps)} steps, {plan['clips']} clips"


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [(OLD, QUIET, "64 + 56 + 16 steps, 24 clips"), (QUIET, EMULATED, "160 + 140 + 40 steps, 64 clips")],
    ids=["slow first", "quick first"],
)
def test_a_probe_that_finds_something_else_later(
    first: Speed,
    then: Speed,
    expected: str,
    tmp_path: Path,
    begun: None,
    monkeypatch: pytest.MonkeyPatch,
    check_case: Callable[..., None],
) -> None:
    for speed, case in ((first, "begun"), (then, "resumed")):
        monkeypatch.setattr(demo_speed, "measure_speed", lambda plan, speed=speed: speed)
        code, output = fewstep("demo", "--out", tmp_path, *(["--minutes", 60] if speed is then else []))
        got = f"exit {code}; {numbers(tmp_path)}"
        check_case(DEMO, f"demo {case}, a step first {first.train} s, then {then.train}", got, f"exit 130; {expected}")
    assert "was begun with" in output


def test_a_damaged_plan(tmp_path: Path, check_case: Callable[..., None]) -> None:
    (tmp_path / "demo.json").write_text("{")
    code, output = fewstep("demo", "--out", tmp_path)
    expected = ["exit 2", "demo.json is not what `fewstep demo` wrote: choose another --out"]
    check_case(DEMO, "demo resumed with a damaged demo.json", f"exit {code}; {output}", expected)


@pytest.mark.parametrize(
    ("case", "user", "expected"),
    [
        ("nothing said", {}, "at torch: None 10000"),
        ("OMP_WAIT_POLICY=ACTIVE", {"OMP_WAIT_POLICY": "ACTIVE"}, "at torch: ACTIVE None"),
        ("GOMP_SPINCOUNT=0", {"GOMP_SPINCOUNT": "0"}, "at torch: None 0"),
        ("KMP_BLOCKTIME=200", {"KMP_BLOCKTIME": "200"}, "at torch: None None"),
    ],
)
def test_idle_threads(case: str, user: dict[str, str], expected: str, check_case: Callable[..., None]) -> None:
    got = at_torch("python -m fewstep", **user)
    check_case(THREADS, f"OMP_WAIT_POLICY and GOMP_SPINCOUNT as torch loads, {case}", got, expected)
