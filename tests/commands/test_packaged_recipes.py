"""The packaged recipes through `fewstep run`, made small by overrides alone: the code is that of the real runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fewstep.distill.packaged import RECIPES
from fewstep.distill.recipe import read_recipe
from fewstep.student.denoiser import Roles
from fewstep.student.load_student import load_student
from fewstep.student.recompute import Recompute
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.shapes.captions import example
from fewstep.teacher.videos.writing import write_video
from tests.commands.typed import fewstep

SIZE = {"num_frames": 9, "height": 16, "width": 16}


def run(name: str, *overrides: str) -> None:
    shared = [f"size={json.dumps(SIZE)}", "device=cpu", "logging.prompts=[a ring]"]
    stages = read_recipe(name, overrides).stages
    small = [f"stages.{i}.{setting}" for i in range(len(stages)) for setting in ("steps=1", "batch=2", "warmup=0")]
    small += [f"stages.{i}.objective.discriminator.width=8" for i in (2, 3)]
    small += [f"stages.0.teacher_steps={2 * stages[0].student_steps}"]  # as in the stages after it
    settings = [part for override in (*shared, *small, *overrides) for part in ("--set", override)]
    code, output = fewstep("run", name, *settings)
    assert code == 0, output


@pytest.mark.parametrize("name, count", [("demo-", 192), ("", 1536)])
def test_the_prompts_are_training_captions_alone(name: str, count: int) -> None:
    prompts = (RECIPES / f"shapes-{name}prompts.txt").read_text("utf-8").splitlines()
    assert prompts == [example("train", 7, index)[1] for index in range(count)]


@pytest.mark.parametrize(
    ("name", "family", "guidance"),
    [
        pytest.param("wan2.1-t2v-1.3b-4step", "tiny_wan_folder", "5", marks=pytest.mark.slow),
        pytest.param("wan2.1-t2v-1.3b-lora-4step", "tiny_wan_folder", "5", marks=pytest.mark.slow),
        ("wan2.2-t2v-a14b-lora-4step", "tiny_experts_folder", "4@0.875-1,3@0-0.875"),
    ],
)
def test_the_wan_recipes_run_on_a_tiny_wan(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    name: str,
    family: str,
    guidance: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spared: list[Roles] = []
    checkpoint_gradients = Roles.checkpoint_gradients

    def spare(roles: Roles, kind: Recompute = True) -> None:
        spared.append(roles)
        checkpoint_gradients(roles, kind)

    monkeypatch.setattr(Roles, "checkpoint_gradients", spare)
    (tmp_path / "prompts.txt").write_text("a corgi runs\na barista pours milk\n")
    small = ["data.steps=2", "stages.2.objective.warmup=1", "stages.3.objective.warmup=1"]
    accumulate = [f"stages.{i}.accumulate=2" for i in range(4)]
    out = [
        f"out={tmp_path / 'run'}",
        f"data.prompts={tmp_path / 'prompts.txt'}",
        f"teacher={request.getfixturevalue(family)}",
    ]
    run(name, *small, *accumulate, *out)
    student = load_student(tmp_path / "run", device="cpu")
    assert student.contract.steps == 4 and student.contract.baked_guidance == Guidance.of(guidance)
    assert [e.trained for e in student.contract.experts] == [True] * (2 if "experts" in family else 0)
    assert student.contract.weights == ("lora" if "lora" in name else "full")
    kept = read_recipe(tmp_path / "run" / "recipe.yaml")
    assert kept.precision == "bfloat16" and kept.stages[0].objective.kind == "progressive"
    assert kept.gradient_checkpointing and len(spared) == 4


def test_a_student_can_be_trained_from_video_files(tiny_wan_folder: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "videos").mkdir()
    for i in range(3):
        write_video(tmp_path / "videos" / f"{i}.mp4", rng.integers(0, 256, (12, 32, 32, 3)).astype(np.uint8), 8)
        (tmp_path / "videos" / f"{i}.txt").write_text(f"a ring, take {i}")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no film")
    small = ["stages.2.objective.warmup=1", "stages.3.objective.warmup=1"]
    run(
        "shapes-from-video", f"data.folder={tmp_path / 'videos'}", f"teacher={tiny_wan_folder}",
        f"out={tmp_path / 'run'}", *small,
    )  # fmt: skip
    manifest = read_manifest(tmp_path / "run" / "data")
    assert manifest.rows == 3 and [skip.file for skip in manifest.skipped] == ["broken.mp4"]
    assert load_student(tmp_path / "run", device="cpu").contract.steps == 4
