"""Disks that are full, quotas that are used up and files that may not grow: one sentence, and nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from fewstep.teacher.interrupts import RESUME
from tests.cases.child_commands import command, end_of
from tests.cases.stopped_run import RECIPE, curves, results, saved, weights, write_recipe

CheckCase = Callable[..., None]
KIND = "09 full disk"
FULL = f"there is no space left on the disk; make room and {RESUME}"
LARGE = f"the file is larger than the file system or `ulimit -f` allows; raise the limit and {RESUME}"
QUOTA = f"the disk quota is used up; make room and {RESUME}"

STAGES = [stage | {"steps": steps} for stage, steps in zip(RECIPE["stages"], (4, 3), strict=True)]
LOGGING = RECIPE["logging"] | {"samples_every": 2, "save_seconds": 1e-9}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_wan_folder: Path) -> Path:
    """A folder with tiny.yaml, prompts.txt and `run`, its finished run; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = write_recipe(folder, tiny_wan_folder, stages=STAGES, logging=LOGGING)
    code, output = command(folder / "log", "run", recipe)
    assert code == 0, output
    return folder


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Callable[[int], None]]:
    """A file system of so many KiB in `folder`; the function gives it another size."""

    def resize(kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(folder)], check=True)

    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system: see the cases of `ulimit -f`")
    try:
        yield resize
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def progress(run: Path) -> int:
    """Steps of finished stages and of the checkpoint, which must be whole."""
    finished = [path.parent.name for path in run.glob("stages/*/contract.json")]
    stage, step = saved(run)
    return sum(each["steps"] for each in STAGES[: len(finished)]) + (0 if stage in finished else step)


def of_run(run: Path) -> list[object]:
    """What an uninterrupted run must be equal to."""
    return [weights(run), curves(run), results(run)]


SIZES = [0, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 400, 700, 900, 1200, 1500, 1600, 1800, 2000, 2300]  # KiB


def test_a_run_on_a_disk_that_grows(check_case: CheckCase, tmp_path: Path, whole: Path) -> None:
    """The same command again and again, each time with a little more room, from no room for the recipe on."""
    disk = tmp_path / "disk"
    run = disk / "run"
    full = []
    with small_disk(disk, 4) as resize:
        (disk / "filler").write_bytes(bytes(4096))
        for kib in SIZES:
            resize(max(4, kib))
            if kib:
                (disk / "filler").unlink(missing_ok=True)
            before = progress(run)
            code, output = command(tmp_path / "log", "run", whole / "tiny.yaml", "--set", f"out={run}")
            parts = [path.name for path in disk.rglob(".*.part*")]
            got = f"{end_of(code, output)} steps lost {max(0, before - progress(run))} parts {parts}"
            expected = [f"exit 2: {disk}", f" could not be written: {FULL}", "steps lost 0 parts []"]
            check_case(KIND, f"run, {kib} KiB", got, expected)
            full.append(end_of(code, output).removeprefix(f"exit 2: {disk}/").split(" could")[0])
        resize(20000)
        code, output = command(tmp_path / "log", "run", whole / "tiny.yaml", "--set", f"out={run}")
        assert code == 0, output
        check_case(KIND, "run, once there is room", of_run(run) == of_run(whole / "run"), "True")
    got = " ".join(sorted(set(full)))
    check_case(KIND, "what could not be written", got, ["run/data/", "run/recipe.yaml", "run/state.pt"])


def test_a_stage_that_is_trained_and_has_no_room(check_case: CheckCase, tmp_path: Path, whole: Path) -> None:
    disk = tmp_path / "disk"
    once = ["--set", "logging.save_seconds=1e6", "--set", "logging.tracker=none"]
    arguments = ["run", whole / "tiny.yaml", "--set", f"out={disk / 'run'}", *once]
    with small_disk(disk, 875) as resize:
        got = end_of(*command(tmp_path / "log", *arguments))
        parts = [path.name for path in disk.rglob(".*.part*")]
        where = f"exit 2: {disk / 'run' / 'stages' / '4-step'} could not be written: "
        check_case(KIND, "run, 875 KiB", f"{got} parts {parts}", f"{where}{FULL} parts []")
        assert progress(disk / "run") == STAGES[0]["steps"]
        resize(20000)
        assert command(tmp_path / "log", *arguments)[0] == 0
        check_case(KIND, "run, 875 KiB and then room", of_run(disk / "run") == of_run(whole / "run"), "True")


def limit(size: int) -> None:
    """`ulimit -f`, in bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [500, 5_000, 100_000, 300_000, 600_000, 700_000])
def test_files_that_may_not_grow(check_case: CheckCase, tmp_path: Path, whole: Path, size: int) -> None:
    """FAT allows 4 GB, and administrators what they like. torch has an error of its own for some of these sizes."""
    run, log = tmp_path / "run", tmp_path / "log"
    arguments = ["run", whole / "tiny.yaml", "--set", f"out={run}", "--set", "logging.tracker=none"]
    got = end_of(*command(log, *arguments, before=partial(limit, size)))
    parts = [path.name for path in tmp_path.rglob(".*.part*")]
    check_case(
        KIND, f"run, files of at most {size} bytes", f"{got} parts {parts}",
        [f"exit 2: {run}", f" could not be written: {LARGE} parts []"],
    )  # fmt: skip
    assert command(log, *arguments)[0] == 0
    check_case(KIND, f"run, after files of at most {size} bytes", weights(run) == weights(whole / "run"), "True")


def failing_sync(reason: int, call: int) -> None:
    """The system refuses to write a file for good."""
    sync, calls = os.fsync, []

    def fail(file: int) -> None:
        calls.append(file)
        if len(calls) == call:
            raise OSError(reason, os.strerror(reason))
        sync(file)

    os.fsync = fail  # type: ignore[assignment]


def test_a_quota(check_case: CheckCase, tmp_path: Path, whole: Path) -> None:
    arguments = ["run", whole / "tiny.yaml", "--set", f"out={tmp_path / 'run'}"]
    got = end_of(*command(tmp_path / "log", *arguments, before=partial(failing_sync, errno.EDQUOT, 30)))
    check_case(KIND, "run, a used-up quota", got, ["exit 2: ", f"could not be written: {QUOTA}"])
    got = end_of(*command(tmp_path / "log", *arguments))
    check_case(KIND, "run, once the quota is larger", got, ["exit 0: the student is in"])


def killing_sync(name: str, call: int) -> None:
    """The system kills the process in the middle of a file, as where memory runs out."""
    sync, calls = os.fsync, []

    def kill(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").resolve().name == name:
            calls.append(file)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    os.fsync = kill  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("name", "call"),
    [(".state.part.pt", 2), (".shard-00000.part.parquet", 1), (".manifest.part.json", 2), (".0.part.mp4", 2)],
)
def test_a_kill_in_the_middle_of_a_file(
    check_case: CheckCase, tmp_path: Path, whole: Path, name: str, call: int
) -> None:
    """What it leaves is written over."""
    run, log = tmp_path / "run", tmp_path / "log"
    arguments = ["run", whole / "tiny.yaml", "--set", f"out={run}"]
    code, _ = command(log, *arguments, before=partial(killing_sync, name, call))
    left = [path.name for path in run.rglob(".*.part*")]
    check_case("09 kills", f"SIGKILL while {name} is written", f"exit {code} left {left}", f"exit -9 left ['{name}']")
    code, _ = command(log, *arguments)
    left = [path.name for path in run.rglob(".*.part*")]
    got = f"exit {code} left {left} as uninterrupted {of_run(run) == of_run(whole / 'run')}"
    check_case("09 kills", f"the same command after {name}", got, "exit 0 left [] as uninterrupted True")


def verbs(whole: Path, teacher: Path, disk: Path) -> dict[str, tuple[list[object], int]]:
    """Verb -> a command that writes to the disk, and a size in KiB at which it cannot end."""
    run, prompts = whole / "run", whole / "prompts.txt"
    rollouts = [
        "data",
        "rollouts",
        prompts,
        "--teacher",
        teacher,
        "--steps",
        2,
        "--device",
        "cpu",
        "--out",
        disk / "data",
    ]
    models = [f"teacher={teacher}@2", f"{run}@4"]
    arguments = [
        "--prompts",
        prompts,
        "--num",
        8,
        "--out",
        disk / "evaluation",
        "--device",
        "cpu",
        "--metrics",
        "psnr,motion",
    ]
    larger = ["--frames", 17, "--height", 64, "--width", 64]
    sample = ["sample", teacher, "--prompt", "a ring", "--steps", 1, *larger, "--device", "cpu", "--out"]
    return {
        "data": (rollouts, 16),
        "sample to mp4": ([*sample, disk / "clip.mp4"], 4),
        "sample to gif": ([*sample, disk / "clip.gif"], 4),
        "sample to png": ([*sample, disk / "sheet.png"], 4),
        "evaluate, clips": (["evaluate", *models, *arguments], 12),
        "evaluate, figures": (["evaluate", *models, *arguments], 40),
        "benchmark": (["benchmark", *models, "--repetitions", 2, "--device", "cpu", "--out", disk / "b.json"], 4),
        "export": (["export", run, "--to", "diffusers", "--out", disk / "export"], 100),
        "export to one file": (["export", run, "--to", "single-file", "--out", disk / "export"], 100),
        "report": (["report", run, "--out", disk / "report.html"], 40),
        "teacher videos": (["teacher", "videos", disk / "clips", "--num", 4], 40),
    }


VERBS = [
    "data", "sample to mp4", "sample to gif", "sample to png", "evaluate, clips", "evaluate, figures", "benchmark",
    "export", "export to one file", "report", "teacher videos",
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_names_what_has_no_room(
    check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, whole: Path, verb: str
) -> None:
    disk = tmp_path / "disk"
    arguments, kib = verbs(whole, tiny_wan_folder, disk)[verb]
    with small_disk(disk, kib) as resize:
        got = end_of(*command(tmp_path / "log", *arguments))
        parts = [path.name for path in disk.rglob(".*.part*")]
        check_case(
            KIND, f"{verb}, {kib} KiB", f"{got} parts {parts}",
            [f"exit 2: {disk}", f" could not be written: {FULL} parts []"],
        )  # fmt: skip
        resize(20000)
        got = end_of(*command(tmp_path / "log", *arguments))
        check_case(KIND, f"{verb}, once there is room", got, ["exit 0: "])
