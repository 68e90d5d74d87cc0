"""The SkyReels V2 adapters against diffusers' own pipelines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from tests.stock_clips import size_of, stock_error
from tests.tiny_skyreels import save_tiny_skyreels


@pytest.fixture(scope="module", params=["tiny_skyreels_folder", "tiny_skyreels_image_folder"])
def teacher(request: pytest.FixtureRequest) -> Teacher:
    folder: Path = request.getfixturevalue(request.param)
    return load_teacher(folder, device="cpu")


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (4, 6.0)])
def test_same_noise_gives_the_stock_latents(teacher: Teacher, steps: int, guidance: float) -> None:
    assert stock_error(teacher, steps, guidance) < 1e-5


def test_same_latents_give_the_stock_video(teacher: Teacher) -> None:
    pipeline: Any = teacher.pipeline
    latents = torch.randn(1, *teacher.latent_shape(*size_of(teacher)))
    mean, std = (
        torch.tensor(pipeline.vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std")
    )
    torch.testing.assert_close(teacher.decode(latents), pipeline.vae.decode(latents * std + mean).sample)


def test_clips_run_at_24_frames_per_second(tiny_skyreels_folder: Path, tmp_path: Path) -> None:
    save_tiny_skyreels(tmp_path)
    (tmp_path / "fewstep.json").unlink()
    teacher = load_teacher(tmp_path, device="cpu")
    assert teacher.default_fps() == 24 and teacher.default_size() == (97, 544, 960) and teacher.schedule.shift == 8


@pytest.mark.parametrize("kind", ["", "ImageToVideo", "VideoToVideo"])
def test_diffusion_forcing_is_refused_with_its_reason(kind: str, tmp_path: Path) -> None:
    index = {"_class_name": f"SkyReelsV2DiffusionForcing{kind}Pipeline"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for load in (load_teacher, outline_teacher):
        with pytest.raises(ValueError, match="cannot be a teacher: with diffusion forcing every frame has a time"):
            load(tmp_path)


def changed(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: changed(folder / "transformer" / "config.json", inject_sample_info=True), "inject_sample_info"),
        (
            lambda folder: changed(folder / "scheduler" / "scheduler_config.json", prediction_type="epsilon"),
            "prediction_type 'epsilon', so that the velocity would be taken for something else: set it to 'flow_",
        ),
    ],
)
@pytest.mark.parametrize("image", [False, True])
def test_what_a_folder_may_not_say(change: Callable[[Path], None], sentence: str, image: bool, tmp_path: Path) -> None:
    save_tiny_skyreels(tmp_path, image=image)
    change(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        outline_teacher(tmp_path)
