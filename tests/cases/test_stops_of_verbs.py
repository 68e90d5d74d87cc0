"""Every verb is asked to stop in the middle; the same command then finishes what it began."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from fewstep.teacher.interrupts import RESUME
from fewstep.teacher.videos.writing import write_video
from tests.cases.child_commands import after, appears, command, end_of, signalled, slow_disk
from tests.cases.stopped_run import RECIPE, write_recipe

CheckCase = Callable[..., None]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_wan_folder: Path) -> Path:
    """A folder with `run`, a finished run of two short stages, and prompts.txt; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    stages = [stage | {"steps": 2} for stage in RECIPE["stages"]]
    code, output = command(folder / "log", "run", write_recipe(folder, tiny_wan_folder, stages=stages))
    assert code == 0, output
    return folder


def verbs(finished: Path, teacher: Path, out: Path) -> dict[str, tuple[list[object], Callable[[], bool], str, str]]:
    """Verb -> a command that is long enough, when to stop it, the end of its sentence, and how it ends in peace."""
    run, prompts, again = finished / "run", finished / "prompts.txt", "run the same command again"
    kept = f"{RESUME}: what was finished is kept"
    rollouts = ["data", "rollouts", prompts, "--teacher", teacher, "--steps", 60, "--device", "cpu", "--out", out]
    videos = ["data", "videos", films(out.parent), "--teacher", teacher, "--device", "cpu", "--out", out]
    models = [f"teacher={teacher}@20", f"{run}@4"]
    arguments = ["--prompts", prompts, "--out", out, "--device", "cpu"]
    trained_teacher = teacher_recipe(out)
    return {
        "data rollouts": (rollouts, appears(out, ".shard-*"), RESUME, "8 clips in 1 shards"),
        "data videos": (videos, appears(out, ".shard-*"), RESUME, "24 clips in 1 shards"),
        "evaluate": (
            ["evaluate", *models, *arguments, "--num", 8, "--batch", 1, "--metrics", "psnr"],
            appears(out, "videos/teacher/*.mp4"), kept, "figures",
        ),
        "vbench videos": (
            ["vbench", "videos", f"{run}@4", *arguments], appears(out, "*/*.mp4", 2), kept, str(out / "run-4"),
        ),
        "shapes teacher": (
            ["shapes", "teacher", "--num", 4, "--reference", 8, "--steps", "2,1", "--out", out / "table.json"],
            appears(out, "table.json"), kept, "table.png",
        ),
        "teacher videos": (["teacher", "videos", out, "--num", 60], appears(out, "*.mp4", 3), kept, "60 clips in"),
        "teacher train": (
            ["teacher", "train", trained_teacher, "--only", "judge"], appears(out, "judge/tensorboard"), RESUME, "",
        ),
        "sample": (
            ["sample", teacher, "--prompts", prompts, "--out", out / "clip.mp4", "--device", "cpu"],
            appears(out, "clip-0.mp4"), again, "clip-7.mp4",
        ),
        "benchmark": (
            ["benchmark", *models, "--repetitions", 30, "--device", "cpu", "--out", out / "benchmark.json"],
            appears(out, "benchmark.json"), again, "table",
        ),
        "export": (
            ["export", f"{run}", "--to", "diffusers", "--base-model", "me/tiny", "--out", out / "export"],
            appears(out, ".export.part"), again, "latents differ by",
        ),
        "report": (
            ["report", run, "--out", out / "report.html"],
            appears(out, ".report.part.html"), again, "open it in a browser",
        ),
    }  # fmt: skip


def films(folder: Path) -> Path:
    """Short clips with captions."""
    frames = np.random.default_rng(0).integers(0, 255, (12, 16, 16, 3), np.uint8)
    (folder / "films").mkdir(exist_ok=True)
    for i in range(24):
        write_video(folder / "films" / f"{i}.mp4", frames, 8)
        (folder / "films" / f"{i}.txt").write_text(f"noise {i}")
    return folder / "films"


def teacher_recipe(out: Path) -> Path:
    """Of a judge of 60 steps."""
    path = out.parent / "teacher.yaml"
    judge = {"steps": 60, "batch": 4, "watch_clips": 32, "feature_clips": 32}
    path.write_text(yaml.safe_dump({"out": str(out), "judge": judge}))
    return path


VERBS = [
    "data rollouts", "data videos", "evaluate", "vbench videos", "shapes teacher", "teacher videos", "teacher train",
    "sample", "benchmark", "export", "report",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_stops_and_is_finished(
    check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, finished: Path, verb: str
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    out.mkdir()
    arguments, ready, sentence, end = verbs(finished, tiny_wan_folder, out)[verb]
    before = slow_disk if verb == "report" else None  # which is over at once
    got = end_of(*signalled(log, signal.SIGTERM, ready, *arguments, before=before))
    parts = [path.name for path in out.rglob("*.part*")]
    check_case(
        "08 SIGTERM in other verbs", verb, f"{got} parts {parts}",
        ["exit 143: stopped by SIGTERM; ", sentence, " parts []"],
    )  # fmt: skip
    check_case(
        "08 SIGTERM in other verbs",
        f"{verb}, the same command again",
        end_of(*command(log, *arguments)),
        ["exit 0: ", end],
    )


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["data rollouts", "evaluate", "sample"])
def test_a_warning_ends_no_other_verb(
    check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, finished: Path, verb: str
) -> None:
    """Its default is to kill."""
    out = tmp_path / "out"
    out.mkdir()
    arguments, ready, _, end = verbs(finished, tiny_wan_folder, out)[verb]
    got = end_of(*signalled(tmp_path / "log", signal.SIGUSR1, ready, *arguments))
    check_case("08 warnings in other verbs", verb, got, ["exit 0: ", end])


@pytest.mark.slow
def test_finished_rows_of_a_shard_are_not_made_again(
    check_case: CheckCase, tmp_path: Path, tiny_wan_folder: Path, finished: Path
) -> None:
    """One shard of eight rollouts, of which some were made."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    make = [
        "data",
        "rollouts",
        finished / "prompts.txt",
        "--teacher",
        tiny_wan_folder,
        "--steps",
        60,
        "--device",
        "cpu",
    ]
    assert command(tmp_path / "log", *make, "--out", whole)[0] == 0
    begun, later = appears(out, ".shard-*"), after(1)
    signalled(tmp_path / "log", signal.SIGTERM, lambda: begun() and later(), *make, "--out", out)
    command(tmp_path / "log", *make, "--out", out)
    shards = [(folder / "shard-00000.parquet").read_bytes() for folder in (whole, out)]
    check_case("08 SIGTERM in other verbs", "data rollouts: as uninterrupted", shards[0] == shards[1], "True")
