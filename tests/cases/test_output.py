"""What commands show while they work (points 13 and 14)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml

from fewstep.commands.evaluate_screen import figures_table
from fewstep.commands.pace import Pace, line_is_due
from fewstep.commands.tables import print_table
from tests.commands.terminal import Stream, seen
from tests.commands.test_run import write_recipe
from tests.commands.typed import fewstep
from tests.torchrun import torchrun

Check = Callable[..., None]
FEWSTEP = [sys.executable, "-m", "fewstep"]


@pytest.fixture
def lines(check_case: Check) -> Check:
    """lines(case, got, expected)"""
    return partial(check_case, "13 plain lines")


@pytest.fixture
def terminal(check_case: Check) -> Check:
    """terminal(case, got, expected)"""
    return partial(check_case, "14 terminal")


# 13: lines where there is no terminal


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stdout", "stderr", "expected"),
    [
        ("terminal", "terminal", "bars on the terminal"),
        ("file", "terminal", "bars on the terminal, lines in stdout"),
        ("file", "file", "lines in stdout"),
        ("pipe", "pipe", "lines in stdout"),
        ("terminal", "file", "lines in stderr"),
        ("pipe", "terminal", "lines in stdout"),
    ],
)
def test_streams(lines: Check, tmp_path: Path, stdout: Stream, stderr: Stream, expected: str) -> None:
    outcome = seen([*FEWSTEP, "teacher", "videos", str(tmp_path / "clips"), "--num", "2"], tmp_path, stdout, stderr)
    got = ["bars on the terminal"] if "━" in outcome.terminal else []
    got += [f"lines in {name}" for name in ("stdout", "stderr") if "clips: clip 1/2, peak" in getattr(outcome, name)]
    assert "\x1b" not in outcome.stdout + outcome.stderr
    lines(f"stdout is a {stdout}, stderr a {stderr}", ", ".join(got), expected)


@pytest.mark.slow
def test_paths_of_clips_stay_paths(lines: Check, tmp_path: Path, tiny_wan_folder: Path) -> None:
    clip = str(tmp_path / "clip.gif")
    command = [*FEWSTEP, "sample", str(tiny_wan_folder), "--prompt", "a ring", "--steps", "2", "--out", clip]
    outcome = seen(command, tmp_path, "file", "terminal")
    lines("sample --out clip.gif > paths, under a bar", outcome.stdout, clip)
    outcome = seen(command, tmp_path, "pipe", "pipe")
    lines("$(sample --out clip.gif)", outcome.stdout, clip)
    lines("sample in a script, standard error", outcome.stderr, ["loading", "sampling: step 1/2, peak"])


# Each verb in a fork of its own, which spares it the imports of all.
WITHOUT_TORCH = """
import os, sys
sys.modules["torch"] = None
from fewstep.cli import main
for number, verb in enumerate(sys.argv[1:]):
    if os.fork():
        os.wait()
        continue
    os.dup2(os.open(f"{number}.txt", os.O_WRONLY | os.O_CREAT), 1)
    sys.argv = ["fewstep", *verb.split()]
    sys.exit(main())
"""


def test_the_first_line_comes_before_torch(lines: Check, tmp_path: Path) -> None:
    """With torch that cannot be imported, whatever is printed was printed before."""
    verbs = {
        "run shapes-4step": "reading the recipe shapes-4step",
        "evaluate shapes@8": "evaluating shapes@8",
        "benchmark shapes@8": "timing shapes@8",
        "demo": "reading the recipe shapes-demo",
        "data rollouts none.txt --out out": "reading prompts from none.txt",
        "data videos none --out out": "looking for videos in none",
        "teacher train none.yaml": "reading the recipe none.yaml",
        "shapes teacher": "measuring the teacher shapes",
    }
    command = [sys.executable, "-c", WITHOUT_TORCH, *verbs]
    subprocess.run(command, stderr=subprocess.DEVNULL, cwd=tmp_path, check=True)
    for number, (verb, expected) in enumerate(verbs.items()):
        printed = (tmp_path / f"{number}.txt").read_text()
        lines(f"first line of {verb}", printed.splitlines()[0], expected)


def test_when_lines_come(lines: Check) -> None:
    for case, each, steps, expected in (
        ("steps of a second", 1, 300, "1 11 21 31 41 51 61 71 81 91 101 111 171 231 291"),
        ("steps of five minutes", 300, 4, "300 600 900 1200"),
        ("steps of 45 seconds", 45, 6, "45 90 180 270"),
    ):
        times: list[int] = []
        for now in range(each, each * steps + 1, each):
            if line_is_due(now, 0, times[-1] if times else None):
                times.append(now)
        lines(f"{case}: lines after so many seconds", " ".join(map(str, times)), expected)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, tiny_wan_folder: Path) -> tuple[Path, str]:
    """A run of a tiny teacher, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    code, output = fewstep("run", write_recipe(folder, tiny_wan_folder))
    assert code == 0, output
    return folder / "run", output


STEP = r"\w[\w -]*: step \d+/\d+, loss [\d.]+,( [\d.]+ m?s/step,)? peak [\d.]+ GiB(, stage .* left, run .* left)?"


def test_a_run_in_a_file(lines: Check, run_folder: tuple[Path, str]) -> None:
    run, output = run_folder
    expected = ["reading the recipe", "loading the teacher", "data: clip 1/4", "4-step: training, 3 steps"]
    expected += ["4-step: step 1/3, loss 0.", "4-step: step 3/3, loss 0.", "2-step: step 2/2", "the student is in"]
    lines("run > log", output, expected)
    steps = [line for line in output.splitlines() if re.search(r": step \d", line)]
    lines("its lines of steps", all(re.fullmatch(STEP, line) for line in steps) and len(steps), "6")
    lines("`nan` in it", "nan" in output, "False")
    logged = (run / "log.txt").read_text("utf-8").splitlines()
    same = [line.split(" ", 2)[2] for line in logged if "process" not in line]
    lines("RUN/log.txt has the same lines", same == output.splitlines(), "True")
    stamped = all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in logged)
    lines("each with date and time", stamped, "True")


def test_other_verbs_in_a_file(
    lines: Check, run_folder: tuple[Path, str], tmp_path: Path, tiny_wan_folder: Path
) -> None:
    run, _ = run_folder
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a ring\na box\na cross\n")
    teacher = f"teacher={tiny_wan_folder}@4"
    made = ("rollouts", prompts, "--teacher", tiny_wan_folder, "--out", out / "data", "--steps", 2)
    _, output = fewstep("data", *made)
    expected = ["reading prompts", "loading the teacher", "rollouts: clip 1/3", "rollouts: clip 3/3", "3 clips in"]
    lines("data rollouts > log", output, expected)
    lines("DATASET/log.txt", (out / "data" / "log.txt").read_text(), ["rollouts: clip 3/3", "3 clips in"])
    _, output = fewstep("evaluate", teacher, f"{run}@2", "--prompts", prompts, "--num", 3, "--out", out / "e")
    lines("evaluate > log", output, ["evaluating", "loading teacher", "teacher, clips: clip 3/3, peak"])
    lines("EVALUATION/log.txt", (out / "e" / "log.txt").read_text(), ["loading run-2", "clips: clip 3/3"])
    _, output = fewstep("benchmark", teacher, f"{run}@2", "--repetitions", 1, "--warmup", 1)
    lines("benchmark > log", output, ["loading the models", "benchmark: pass 1/4, teacher, peak"])
    lines("RUN/log.txt has the benchmark", (run / "log.txt").read_text(), ["benchmark: pass 4/4, run-2"])


@pytest.mark.slow
def test_teacher_training_in_a_file(lines: Check, tmp_path: Path) -> None:
    from tests.teacher.shapes.test_recipe import TINY

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"out": str(tmp_path / "run"), **TINY}))
    code, output = fewstep("teacher", "train", recipe, "--device", "cpu")
    expected = ["judge: step 1/2, loss", "autoencoder: step 2/2, loss", "denoiser: step 2/2, loss", "the teacher is in"]
    lines("teacher train > log", output, expected)
    lines("its log.txt", (tmp_path / "run" / "log.txt").read_text(), expected)
    assert code == 0


@pytest.mark.slow
def test_a_log_goes_on_after_a_stop(lines: Check, tmp_path: Path, tiny_wan_folder: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_wan_folder)
    long = [*FEWSTEP, "run", str(recipe), "--set", "stages.0.steps=60", "--set", "logging.save_seconds=0.01"]
    process = subprocess.Popen(long, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "4-step: step 1/" in line:
            break
    process.stdout.close()  # as `| head` does; the run must go on anyway
    log, state = tmp_path / "run" / "log.txt", tmp_path / "run" / "state.pt"
    while not state.exists() and process.poll() is None:
        pass
    process.kill()
    process.wait()
    kept = log.read_text("utf-8")
    log.write_text(kept + "2026-01-01 00:00:00+00:00 4-step: ste")  # a line that the kill cut
    code, output = fewstep(*long[3:])
    assert code == 0, output
    logged = log.read_text("utf-8").splitlines()
    lines("run again after a kill", "\n".join(logged), ["4-step: ste", "4-step: resumed at step", " of 60"])
    lines("the cut line stands alone", "2026-01-01 00:00:00+00:00 4-step: ste" in logged, "True")
    lines("what was there before is kept", "\n".join(logged).startswith(kept.strip()), "True")


@pytest.mark.slow
def test_only_one_of_several_processes_prints(lines: Check, tmp_path: Path, tiny_wan_folder: Path) -> None:
    recipe = write_recipe(tmp_path, tiny_wan_folder)
    launcher = torchrun(2, "-m", "fewstep")
    short = [word for i in range(3) for word in ("--set", f"stages.{i}.steps=1")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, "run", str(recipe), *short], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    counts = {line: done.stdout.count(line) for line in ("reading the recipe", "4-step: step 1/1", "the student is in")}
    lines("lines of two processes", counts, str(dict.fromkeys(counts, 1)))
    logged = (tmp_path / "run" / "log.txt").read_text()
    lines("their log.txt", logged.count("4-step: step 1/1"), "1")


def test_tables_in_files_are_not_squeezed(lines: Check, capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"psnr": {"value": 20.0, "low": 19.0, "high": 21.0, "num": 512}}
    names = [f"a-model-with-a-long-name-{i}" for i in range(6)]
    print_table(figures_table([{"model": name, "evaluations": 4, "metrics": figures} for name in names]))
    widest = max(map(len, capsys.readouterr().out.splitlines()))
    lines("a table of six long names keeps them whole", widest > 150, "True")


# 14: on a terminal


@pytest.mark.slow
def test_a_terminal_shows_pace_memory_and_both_times_left(
    terminal: Check, tmp_path: Path, tiny_wan_folder: Path
) -> None:
    recipe = write_recipe(tmp_path, tiny_wan_folder)
    outcome = seen([*FEWSTEP, "run", str(recipe), "--set", "stages.0.steps=8"], tmp_path, "terminal", "terminal", 100)
    assert outcome.code == 0, outcome.plain
    terminal("said before slow things", outcome.plain, ["reading the recipe", "loading the teacher", "embedding the"])
    bars = [line for line in outcome.plain.splitlines() if line.startswith("4-step ") and "8 " in line]
    terminal("`nan` anywhere", "nan" in outcome.plain, "False")
    later = next(line for line in bars if "left" in line)
    terminal("a bar later on", later, ["loss ", "/step, peak ", " GiB, ", " left, run "])


def test_times_left_are_sound(terminal: Check) -> None:
    pace = Pace(0, 0.0)
    pace.add(1, 40.0)
    terminal("pace after a first step of 40 s (warm-up)", pace.each, "None")
    pace.add(2, 41.0)
    terminal("after a second of 1 s", pace.each, "1.0")
    burst = Pace(0, 0.0)
    for batch in (1, 2, 3):
        for i in range(16):
            burst.add(16 * (batch - 1) + i + 1, 16.0 * batch + 0.001 * i)
    terminal("clips that come 16 at a time every 16 s", f"{burst.each:.1f}", "1.0")
