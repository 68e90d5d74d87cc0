"""Clips of several sizes that are made from images or videos: what is given has each clip's own size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.distill.batches import Batches
from fewstep.distill.data import make_data
from fewstep.distill.settings import RolloutData, VideoData
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.dataset.buckets import datasets_in
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.given import Given, Prompt, given_of_clips, read_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.videos.decoding import ClipShape, decode_video
from fewstep.teacher.videos.writing import write_video

SIZES = (VideoSize(9, 16, 16), VideoSize(5, 16, 32))
FILES = {"square": (32, 32, 12), "wide": (32, 64, 12)}  # the size that each fits, in this order


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A file for each size, a control for each, and a table of captions."""
    draw, lines = np.random.default_rng(0), []
    for folder in ("videos", "controls"):
        (tmp_path / folder).mkdir()
        for name, (height, width, frames) in FILES.items():
            pixels = draw.integers(0, 255, (frames, height, width, 3), np.uint8)
            write_video(tmp_path / folder / f"{name}.mp4", pixels, 8.0)
    for name in FILES:
        lines.append({"file": f"{name}.mp4", "caption": f"a {name} one", "depth": f"controls/{name}.mp4"})
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "videos"


def check_same(teacher: Teacher, batches: Batches, directly: list[tuple[str, VideoSize, Given]]) -> None:
    """Batches of each size hold what the teacher is conditioned on where the same is given to it directly."""
    for batch, (text, size, given) in zip(batches.of_each_size(0, 1), directly, strict=True):
        conditions = teacher.conditions([text], size=size, given=given)
        assert batch.x0.shape == (1, *teacher.latent_shape(*size))
        t, z = torch.tensor([0.6]), teacher.noise([3], batch.x0.shape[1:])
        prediction = teacher.predict(z, t, batch.conditions)
        black = {name: torch.zeros_like(video) for name, video in given.items()}
        of_nothing = teacher.predict(z, t, teacher.conditions([text], size=size, given=black))
        error = float((prediction - teacher.predict(z, t, conditions)).abs().max())
        assert error < 1e-3  # datasets hold halves
        assert float((prediction - of_nothing).abs().max()) > 4 * error


@pytest.mark.parametrize(("kind", "given"), [("i2v", {"first": "FIRST_FRAME"}), ("vace", {"control": "depth"})])
def test_videos_of_two_sizes_give_pictures_of_their_own_size(
    given_wan_folders: Callable[[str], Path], videos: Path, tmp_path: Path, kind: str, given: dict[str, str]
) -> None:
    teacher = load_teacher(given_wan_folders(kind), device="cpu")
    settings = VideoData(kind="videos", folder=videos, captions=tmp_path / "captions.jsonl", given=given)
    out = make_data(settings, teacher, "tiny", SIZES, tmp_path / "data", lambda done, total: None)
    manifests = [read_manifest(folder) for folder in datasets_in(out)]
    assert [(one.rows, one.size, tuple(one.given)) for one in manifests] == [(1, size, tuple(given)) for size in SIZES]
    directly: list[tuple[str, VideoSize, Given]] = []
    for name, size in zip(FILES, SIZES, strict=True):
        fps, text = teacher.default_fps(), f"a {name} one"
        frames = decode_video(videos / f"{name}.mp4", ClipShape(*size, fps=fps))
        own = given_of_clips(torch.from_numpy(frames[None]).movedim(-1, 1), {"first": "FIRST_FRAME"})
        control = Prompt(text, {"control": tmp_path / "controls" / f"{name}.mp4"})
        directly.append((text, size, own if kind == "i2v" else read_given([control], {"control": size}, fps, "centre")))
    check_same(teacher, Batches(out, teacher, seed=0, stage=0), directly)


def test_rollouts_of_two_sizes_cut_the_given_picture_to_each(
    given_wan_folders: Callable[[str], Path], tmp_path: Path
) -> None:
    teacher = load_teacher(given_wan_folders("i2v"), device="cpu")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a ring", "first": "a.png"}) + "\n")
    settings = RolloutData(kind="rollouts", prompts=tmp_path / "prompts.jsonl", count=2, steps=1)
    out = make_data(settings, teacher, "tiny", SIZES, tmp_path / "data", lambda done, total: None)
    prompt = Prompt("a ring", {"first": tmp_path / "a.png"})
    pictures = [read_given([prompt], {"first": size._replace(num_frames=1)}, 8.0) for size in SIZES]
    directly = [("a ring", size, picture) for size, picture in zip(SIZES, pictures, strict=True)]
    check_same(teacher, Batches(out, teacher, seed=0, stage=0), directly)
