"""What ships: a plain diffusers pipeline with a good autoencoder, and the judge that its card names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.teacher.base import Teacher, embedded_path
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.shapes.autoencoder import clips
from fewstep.teacher.shapes.judge import EMBEDDED_JUDGE, batch, judge_sha256, load_judge
from fewstep.teacher.training_loop import psnr_of_mse
from fewstep.teacher.videos.decoding import ClipShape, decode_video

TABLE = Path(__file__).parents[3] / "docs" / "results" / "teacher.json"
PROMPT = "a large yellow ring drifts to the left over a dark striped background"


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return load_teacher("shapes", device="cpu")


def test_plain_diffusers_makes_the_clip_that_sample_makes(tmp_path: Path) -> None:
    out = tmp_path / "clip.gif"
    options = ["--steps", "4", "--seed", "7", "--device", "cpu", "--out", str(out)]
    result = CliRunner().invoke(app, ["sample", "shapes", "--prompt", PROMPT, *options])
    assert result.exit_code == 0, result.output
    ours = decode_video(out, ClipShape(num_frames=17, height=64, width=64, fps=8.0), start="beginning")
    loader: Any = DiffusionPipeline
    pipe = loader.from_pretrained(embedded_path())
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        PROMPT, num_frames=17, height=64, width=64, num_inference_steps=4, guidance_scale=5.0,
        generator=torch.Generator().manual_seed(7),
    ).frames[0]  # fmt: skip
    # a GIF holds 256 colours a frame
    assert np.abs(ours / 255 - theirs).mean() < 0.02


@torch.no_grad()
def test_the_autoencoder_reconstructs_held_out_clips_at_thirty_decibels(teacher: Teacher) -> None:
    video = clips("held-out", 123, range(12))
    assert float(psnr_of_mse((teacher.decode(teacher.encode(video)) - video).square().mean())) >= 30


def test_latents_have_unit_variance(teacher: Teacher) -> None:
    assert float(teacher.encode(clips("held-out", 124, range(8))).var()) == pytest.approx(1, abs=0.15)


def test_the_judge_is_the_one_that_its_card_names() -> None:
    assert judge_sha256() == json.loads((EMBEDDED_JUDGE / "judge.json").read_text())["sha256"]


def test_the_published_table_is_this_teachers_and_shows_why_it_needs_distilling(teacher: Teacher) -> None:
    rows = json.loads(TABLE.read_text())["rows"]
    assert {row["teacher_sha256"] for row in rows} == {teacher.sha256()}
    assert {row["judge_sha256"] for row in rows} == {judge_sha256()}
    assert {row["num"] for row in rows} == {512}
    (real,) = (row for row in rows if row["model"] == "real")
    at = {row["steps"]: row for row in rows if row["model"] == "teacher"}
    assert at[50]["prompt_accuracy"] >= 0.85 and real["prompt_accuracy"] >= 0.95
    distances = [at[steps]["shapes_fd"] for steps in (50, 4, 2, 1)]
    assert real["shapes_fd"] < distances[0] and distances == sorted(distances)
    assert distances[1] >= 2 * distances[0] and distances[2] >= 5 * distances[0]


@torch.no_grad()
def test_the_judge_sees_a_mottle_that_is_too_weak() -> None:
    judge = load_judge()

    def mean_features(mottle: float) -> torch.Tensor:
        videos, _ = batch("held-out", 99, range(24), np.full(24, mottle))
        return judge(videos)[1].mean(0)

    as_it_is = mean_features(1.0)
    off = [float((mean_features(mottle) - as_it_is).square().sum()) for mottle in (0.8, 0.5, 0.2)]
    assert off == sorted(off) and off[1] > 20  # in squared deviations of real clips, as in shapes-fd
