"""`fewstep run` on clips of three sizes of the embedded world, stopped and resumed; its student at each of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fewstep.student.contract import read_contract
from fewstep.teacher.base import VideoSize
from fewstep.teacher.dataset.buckets import datasets_in
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.videos.writing import write_video
from tests.commands.test_run import weights
from tests.commands.test_run_stops import results, signalled
from tests.commands.typed import fewstep

SIZES = [VideoSize(5, 32, 32), VideoSize(9, 32, 32), VideoSize(5, 32, 48)]
NAMES = ["32x32x5", "32x32x9", "48x32x5"]
STAGES: list[dict[str, Any]] = [
    {
        "teacher_steps": 2, "student_steps": 2, "guidance": 2.0, "steps": 4, "batch": 2, "accumulate": 2,
        "objective": {"kind": "progressive"},
    },
    {
        "teacher_steps": 2, "student_steps": 1, "steps": 3, "batch": 2, "betas": [0, 0.99],
        "objective": {"kind": "adversarial", "warmup": 1, "discriminator": {"width": 8, "depths": [0.5]}},
    },
]  # fmt: skip


def write_recipe(folder: Path, stated: object) -> Path:
    (folder / "prompts.txt").write_text("".join(f"a red ring number {i}\n" for i in range(8)))
    settings: dict[str, Any] = {
        "teacher": "shapes", "out": str(folder / "run"), "device": "cpu", "precision": "float32", "size": stated,
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 2, "guidance": 2.0},
        "logging": {"tracker": "none", "every": 1}, "stages": STAGES,
    }  # fmt: skip
    path = folder / "sizes.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.slow
def test_a_run_on_three_sizes_resumes_bit_for_bit_and_its_student_is_sampled_at_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recipe(tmp_path, [size._asdict() for size in SIZES])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    code, output = fewstep("run", path, "--set", f"out={whole}")
    assert code == 0, output
    assert [folder.name for folder in datasets_in(whole / "data")] == NAMES
    manifests = [read_manifest(folder) for folder in datasets_in(whole / "data")]
    assert [manifest.size for manifest in manifests] == SIZES and sum(manifest.rows for manifest in manifests) == 8

    for target, call in (  # amid the data, then amid each stage
        ("fewstep.teacher.dataset.sources.text_tensors", 5),
        ("fewstep.distill.trainer.Trainer.one_step", 2),
        ("fewstep.distill.trainer.Trainer.one_step", 4),
    ):
        with monkeypatch.context() as moment:
            signalled(moment, target, call)
            assert fewstep("run", path, "--set", f"out={stopped}")[0] == 128 + signal.SIGTERM
    assert fewstep("run", path, "--set", f"out={stopped}")[0] == 0
    assert weights(stopped) == weights(whole) and results(stopped) == results(whole)

    contract = read_contract(whole / "stages" / "1-step")
    assert contract.sizes == tuple(SIZES)
    for size in SIZES:
        options = ("--frames", size.num_frames, "--height", size.height, "--width", size.width)
        clip = tmp_path / f"{size.width}-{size.num_frames}.mp4"
        code, output = fewstep("sample", whole, "--prompt", "a red ring", "--out", clip, *options)
        assert code == 0 and clip.stat().st_size > 0, output
    other = ("sample", whole, "--prompt", "a red ring", "--out", tmp_path / "other.mp4", "--width", 64)
    code, output = fewstep(*other)
    assert code == 2 and f"the student was trained for sizes {', '.join(NAMES)}, not 64x32x5" in output
    assert fewstep(*other, "--force")[0] == 0

    timed = tmp_path / "timed.json"
    few = ("--warmup", 1, "--repetitions", 1, "--out", timed, "--width", 48)
    code, output = fewstep("benchmark", "shapes@2", f"student={whole}", *few)
    assert code == 0 and json.loads(timed.read_text())["protocol"]["size"] == [5, 32, 48], output

    (tmp_path / "asked.txt").write_text("a red ring\na blue square\n")
    models = ("evaluate", "shapes@2", f"student={whole}", "--prompts", tmp_path / "asked.txt", "--num", 3)
    sized: list[tuple[tuple[object, ...], VideoSize]] = [((), SIZES[0]), (("--frames", 9), SIZES[1])]
    for arguments, size in sized:
        measured = tmp_path / f"measured-{size.num_frames}"
        code, output = fewstep(*models, "--metrics", "psnr,motion", "--out", measured, *arguments)
        assert code == 0, output
        protocol = json.loads((measured / "results.json").read_text())["protocol"]
        assert [protocol[name] for name in ("frames", "height", "width")] == list(size)
    code, output = fewstep(*models, "--width", 64, "--out", tmp_path / "refused")
    assert code == 2 and "the student was trained for sizes" in output and not (tmp_path / "refused").exists()

    code, output = fewstep("export", whole, "--to", "comfyui", "--out", tmp_path / "comfyui")
    assert code == 0, output
    noise = json.loads((tmp_path / "comfyui" / "workflow.json").read_text())["noise"]["inputs"]
    assert [noise[name] for name in ("length", "height", "width")] == list(SIZES[0])
    card = (tmp_path / "comfyui" / "README.md").read_text()
    assert all(f"- size: {s.num_frames} frames of {s.width} x {s.height} pixels" in card for s in SIZES)
    assert read_contract(tmp_path / "comfyui").sizes == tuple(SIZES)
    for width, done in (48, 0), (64, 2):
        clip = tmp_path / "of-export.mp4"
        typed = ("--prompt", "a red ring", "--out", clip, "--width", width)
        code, output = fewstep("sample", tmp_path / "comfyui", *typed)
        assert code == done, output


@pytest.mark.slow
@pytest.mark.usefixtures("uncounted")
def test_a_run_on_the_dataset_of_several_sizes_of_another(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, [size._asdict() for size in SIZES])
    first = ("--set", f"stages=[{json.dumps(STAGES[0] | {'steps': 1})}]")
    assert fewstep("run", path, *first)[0] == 0
    there = ("--set", f"data={{kind: dataset, folder: {tmp_path / 'run' / 'data'}}}", "--set", "size=null")
    code, output = fewstep("run", path, *first, *there, "--set", f"out={tmp_path / 'other'}", "--dry-run")
    assert code == 0 and [row[0] for row in table(output)] == NAMES, output
    assert sum(int(row[1]) for row in table(output)) == 8
    assert fewstep("run", path, *first, *there, "--set", f"out={tmp_path / 'other'}")[0] == 0
    assert weights(tmp_path / "other") == weights(tmp_path / "run")
    assert read_contract(tmp_path / "other" / "stages" / "2-step").sizes == tuple(SIZES)
    batch = ("--set", "stages.0.batch=4", "--set", f"out={tmp_path / 'third'}")
    code, output = fewstep("run", path, *first, *there, *batch)
    assert code == 2 and "clips, and stage 2-step takes batches of 4 of one size" in output
    assert not (tmp_path / "third").exists()


def table(output: str) -> list[list[str]]:
    """The dry run's rows: size, clips, latents."""
    return [[cell.strip() for cell in line.split("│")[1:4]] for line in output.splitlines() if "│ 16 x " in line]


def sizes(*texts: str) -> list[dict[str, int]]:
    names = ("width", "height", "num_frames")
    return [dict(zip(names, map(int, text.split("x")), strict=True)) for text in texts]


@pytest.mark.parametrize(
    ("stated", "sentence"),
    [
        (sizes("32x32x5", "48x32x5", "32x32x5"), "size: 32x32x5 is listed twice: list each size once"),
        ([], "size: the list is empty: name at least one size, or leave it out"),
        ([*sizes("32x32x5"), {"width": 32, "height": 32}], "size.1.num_frames is missing"),
        (sizes("32x32x5", "32x32x6"), "the size of clips is (6, 32, 32), frames, height and width: "),
        (
            sizes("32x32x5", "48x32x5", "64x32x5", "32x32x9", "48x32x9"),  # of 8 prompts
            "and stage 2-step takes batches of 2 of one size: leave this size out",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(tmp_path: Path, stated: object, sentence: str) -> None:
    code, output = fewstep("run", write_recipe(tmp_path, stated), "--dry-run")
    assert code == 2 and sentence in " ".join(output.split()), output


@pytest.mark.usefixtures("uncounted")
def test_a_dry_run_names_the_largest_size(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, sizes("32x32x5", "48x32x5", "32x32x9"))
    code, output = fewstep("run", path, "--dry-run")
    assert code == 0 and "clips of 3 sizes: 48x32x5 is the largest" in output, output
    rows = table(output)
    assert [row[0] for row in rows] == ["32x32x5", "48x32x5", "32x32x9"] and sum(int(row[1]) for row in rows) == 8
    assert rows[0][2] == "16 x 2 x 4 x 4", output


@pytest.mark.usefixtures("uncounted")
def test_a_dry_run_counts_videos_by_size_and_says_which_are_too_short(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name, width, frames in (("a", 32, 12), ("b", 32, 12), ("c", 48, 12), ("d", 48, 12), ("short", 32, 3)):
        write_video(tmp_path / "videos" / f"{name}.mp4", np.zeros((frames, 32, width, 3), np.uint8), 8.0)
        (tmp_path / "videos" / f"{name}.txt").write_text("a red ring")
    path = write_recipe(tmp_path, sizes("32x32x5", "48x32x5"))
    videos = ("--set", f"data={{kind: videos, folder: {tmp_path / 'videos'}}}")
    code, output = fewstep("run", path, *videos, "--dry-run")
    assert code == 0 and [row[:2] for row in table(output)] == [["32x32x5", "2"], ["48x32x5", "2"]], output
    assert "at most 4 of 5 clips usable, 1 skipped (such as short.mp4: too short: 0.38 s, it needs" in output
