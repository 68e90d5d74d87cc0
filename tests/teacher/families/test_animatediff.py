"""The AnimateDiff adapter against diffusers' own AnimateDiffPipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)
from torch import Tensor

from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from fewstep.teacher.schedulers import read_scheduler

PROMPTS = ["a red circle", "a big blue square moves left over a dark background"]


@pytest.fixture(scope="module")
def teacher(tiny_animatediff_folder: Path) -> Teacher:
    return load_teacher(tiny_animatediff_folder, device="cpu")


def stock(folder: Path, z: Tensor, steps: int, guidance: float, output_type: str = "latent") -> Tensor:
    """What the pipeline makes of our noise. It takes one negative prompt per prompt, or none."""
    pipeline: Any = AnimateDiffPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        negative_prompt=["blurry", "blurry"],
        num_frames=z.shape[2],
        height=24,
        width=16,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=z,
        output_type=output_type,
        return_dict=False,
    )[0]


def ours(folder: Path, steps: int, guidance: float) -> tuple[Teacher, Tensor, Tensor]:
    teacher = load_teacher(folder, device="cpu")
    z = teacher.noise([5, 6], teacher.latent_shape(5, 24, 16))
    conditions = teacher.conditions(PROMPTS, "blurry")
    return teacher, z, rollout(teacher, z, conditions, teacher.schedule.grid(steps), guidance)


def assert_parity(folder: Path, steps: int, guidance: float) -> None:
    _, z, actual = ours(folder, steps, guidance)
    expected = stock(folder, z, steps, guidance)
    assert float((actual - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))


FURTHER = [(1, 7.5), (4, 1.0), (10, 1.0), (10, 7.5)]  # steps and guidance


@pytest.mark.parametrize(
    ("steps", "guidance"), [(1, 1.0), (4, 7.5), *(pytest.param(*more, marks=pytest.mark.slow) for more in FURTHER)]
)
def test_same_noise_gives_the_stock_latents(tiny_animatediff_folder: Path, steps: int, guidance: float) -> None:
    assert_parity(tiny_animatediff_folder, steps, guidance)


def test_same_noise_gives_the_stock_video(tiny_animatediff_folder: Path) -> None:
    teacher, z, latents = ours(tiny_animatediff_folder, 2, 1.0)
    actual = teacher.decode(latents).transpose(1, 2)
    expected = stock(tiny_animatediff_folder, z, 2, 1.0, output_type="pt")
    assert actual.shape == expected.shape == (2, 5, 3, 24, 16)
    torch.testing.assert_close((actual / 2 + 0.5).clamp(0, 1), expected, atol=1e-4, rtol=1e-4)


def test_the_first_motion_modules_have_none_in_the_middle(
    make_tiny_animatediff: Callable[..., None], tmp_path: Path
) -> None:
    make_tiny_animatediff(tmp_path, use_motion_mid_block=False)
    assert_parity(tmp_path, 2, 7.5)
    teacher = load_teacher(tmp_path, device="cpu")
    assert teacher.blocks(teacher.network_at(1.0))[2] is teacher.pipeline.unet.mid_block


def test_every_frame_is_encoded_by_itself(teacher: Teacher) -> None:
    vae, video = teacher.pipeline.vae, torch.rand(2, 3, 20, 16, 16) * 2 - 1  # 40 frames: more than go at once
    latents = teacher.encode(video)
    assert latents.shape == (2, *teacher.latent_shape(20, 16, 16))
    raw = vae.encode(video[1, :, 17][None]).latent_dist.mode()[0]
    torch.testing.assert_close(latents[1, :, 17], raw * vae.config.scaling_factor, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(teacher.decode(latents)[1, :, 17], vae.decode(raw[None]).sample[0], atol=1e-5, rtol=1e-4)


def test_features_shrink_and_grow(teacher: Teacher) -> None:
    unet, z = teacher.pipeline.unet, teacher.noise([0], teacher.latent_shape(3, 16, 24))
    assert teacher.taps(unet) == [unet.down_blocks[1], unet.mid_block, unet.up_blocks[1]]
    features = teacher.features(z, 0.7, teacher.conditions(["x"]))
    assert [tuple(f.shape) for f in features] == [(1, 16, 3, 4, 6), (1, 16, 3, 4, 6), (1, 8, 3, 8, 12)]
    with pytest.raises(ValueError, match="no repeated blocks"):
        teacher.taps(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((33, 16, 16), "33 frames cannot be made: use 1 to 32, the most that the motion modules support"),
        ((0, 16, 16), "0 frames cannot be made"),
        ((4, 12, 16), "height 12 cannot be made: use a multiple of 8"),
        ((4, 16, 0), "width 0 cannot be made"),
    ],
)
def test_impossible_sizes(teacher: Teacher, size: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        teacher.latent_shape(*size)


def test_as_many_frames_as_the_motion_modules_tell_apart(teacher: Teacher) -> None:
    z = teacher.noise([0], teacher.latent_shape(32, 16, 16))
    assert teacher.denoise(z, 1.0, teacher.conditions(["x"])).shape == z.shape


def test_size_and_rate_where_the_folder_does_not_say(
    make_tiny_animatediff: Callable[..., None], tmp_path: Path
) -> None:
    for name, config, size in (("usual", {}, (16, 16, 16)), ("none", {"sample_size": None}, None)):
        make_tiny_animatediff(tmp_path / name, **config)
        (tmp_path / name / "fewstep.json").unlink()
        teacher = load_teacher(tmp_path / name, device="cpu")
        assert teacher.default_size() == size and teacher.default_fps() == 8


def test_the_schedule_ends_short_of_pure_noise(teacher: Teacher) -> None:
    """An error of eps at t = 1 is 15 times one of x0 with Stable Diffusion's betas, 25 times with linear ones."""
    alpha, sigma = float(teacher.schedule.alpha(1.0)), float(teacher.schedule.sigma(1.0))
    assert teacher.schedule.prediction == "eps" and 24 < sigma / alpha < 26


@pytest.mark.parametrize(
    "scheduler", [DPMSolverMultistepScheduler, EulerDiscreteScheduler, LCMScheduler, PNDMScheduler]
)
def test_the_schedule_is_the_same_whichever_the_scheduler(teacher: Teacher, scheduler: Any) -> None:
    assert read_scheduler(scheduler.from_config(teacher.pipeline.scheduler.config)) == teacher.schedule
