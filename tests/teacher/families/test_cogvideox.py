"""The CogVideoX adapter against diffusers' own CogVideoXPipeline: 2B, 5B and 1.5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDPMScheduler, CogVideoXPipeline
from torch import Tensor

from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from fewstep.teacher.schedulers import read_scheduler

PROMPTS = ["a red circle", "a big blue square moves left over a dark background"]
VARIANTS: dict[str, dict[str, Any]] = {
    "2B": {"use_rotary_positional_embeddings": False},
    "5B": {"use_rotary_positional_embeddings": True},
    "1.5": {"patch_size_t": 2, "patch_bias": False, "sample_frames": 81, "sample_height": 100, "sample_width": 200},
}


@pytest.fixture(scope="module", params=VARIANTS)
def folder(
    request: pytest.FixtureRequest, make_tiny_cogvideox: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("cogvideox")
    make_tiny_cogvideox(path, **VARIANTS[request.param])
    return path


@pytest.fixture
def newest(make_tiny_cogvideox: Callable[..., None], tmp_path: Path) -> Path:
    make_tiny_cogvideox(tmp_path, **VARIANTS["1.5"])
    return tmp_path


@pytest.fixture(scope="module")
def teacher(tiny_cogvideox_folder: Path) -> Teacher:
    return load_teacher(tiny_cogvideox_folder, device="cpu")


def stock(folder: Path, z: Tensor, steps: int, guidance: float, output_type: str = "latent") -> Tensor:
    """What the pipeline makes of our noise, in its own order of axes."""
    pipeline: Any = CogVideoXPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        negative_prompt="blurry",
        num_frames=9,
        height=32,
        width=16,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=z.transpose(1, 2),
        max_sequence_length=16,
        output_type=output_type,
        return_dict=False,
    )[0]


def ours(folder: Path, steps: int, guidance: float) -> tuple[Teacher, Tensor, Tensor]:
    teacher = load_teacher(folder, device="cpu")
    z = teacher.noise([5, 6], teacher.latent_shape(9, 32, 16))
    conditions = teacher.conditions(PROMPTS, "blurry")
    return teacher, z, rollout(teacher, z, conditions, teacher.schedule.grid(steps), guidance)


FURTHER = [(1, 6.0), (4, 1.0), (10, 1.0), (10, 6.0)]  # steps and guidance


@pytest.mark.parametrize(
    ("steps", "guidance"), [(1, 1.0), (4, 6.0), *(pytest.param(*more, marks=pytest.mark.slow) for more in FURTHER)]
)
def test_same_noise_gives_the_stock_latents(folder: Path, steps: int, guidance: float) -> None:
    _, z, actual = ours(folder, steps, guidance)
    expected = stock(folder, z, steps, guidance).transpose(1, 2)
    assert float((actual - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))


def test_same_noise_gives_the_stock_video(folder: Path) -> None:
    teacher, z, latents = ours(folder, 2, 1.0)
    actual = teacher.decode(latents).transpose(1, 2)
    expected = stock(folder, z, 2, 1.0, output_type="pt")
    assert actual.shape == expected.shape == (2, 9, 3, 32, 16)
    torch.testing.assert_close((actual / 2 + 0.5).clamp(0, 1), expected, atol=1e-4, rtol=1e-4)


def test_latents_have_unit_variance_where_the_config_knows_it(teacher: Teacher) -> None:
    vae, video = teacher.pipeline.vae, torch.rand(2, 3, 9, 16, 16) * 2 - 1
    raw = vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(teacher.encode(video), raw * vae.config.scaling_factor)
    torch.testing.assert_close(teacher.decode(raw * vae.config.scaling_factor), vae.decode(raw).sample)


def test_the_first_latent_frame_is_there_twice_in_1_5(newest: Path) -> None:
    teacher = load_teacher(newest, device="cpu")
    latents = teacher.encode(torch.rand(1, 3, 17, 16, 16) * 2 - 1)
    assert latents.shape == (1, *teacher.latent_shape(17, 16, 16)) == (1, 4, 6, 2, 2)
    assert torch.equal(latents[:, :, 0], latents[:, :, 1]) and not torch.equal(latents[:, :, 1], latents[:, :, 2])
    assert teacher.decode(latents).shape == (1, 3, 17, 16, 16)
    (feature,) = teacher.features(latents, 0.5, teacher.conditions(["x"]), (1.0,))
    assert feature.shape == (1, 32, 3, 1, 1)


def test_why_latent_frames_are_odd(teacher: Teacher) -> None:
    """The pipeline takes 13 frames and returns 16: its autoencoder decodes latent frames in pairs."""
    assert teacher.encode(torch.zeros(1, 3, 13, 16, 16)).shape[2] == 4
    assert teacher.decode(torch.zeros(1, 4, 4, 2, 2)).shape[2] == 16


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((13, 16, 16), "13 frames cannot be made: use a multiple of 8 plus 1, such as 9"),
        ((0, 16, 16), "0 frames cannot be made"),
        ((9, 24, 16), "height 24 cannot be made: use a multiple of 16"),
        ((9, 16, 0), "width 0 cannot be made"),
    ],
)
def test_impossible_sizes(teacher: Teacher, size: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        teacher.latent_shape(*size)


def test_positions_of_1_5_end_somewhere(newest: Path) -> None:
    teacher = load_teacher(newest, device="cpu")
    assert teacher.latent_shape(9, 800, 1600) == (4, 4, 100, 200)
    with pytest.raises(ValueError, match="816 x 16 pixels cannot be made: use at most 800 x 1600"):
        teacher.latent_shape(9, 816, 16)


def test_size_and_rate_where_the_folder_does_not_say(
    newest: Path, make_tiny_cogvideox: Callable[..., None], tmp_path: Path
) -> None:
    make_tiny_cogvideox(tmp_path / "5B")
    for folder, size, fps in ((tmp_path / "5B", (9, 16, 16), 8), (newest, (81, 768, 1360), 16)):
        (folder / "fewstep.json").unlink()
        teacher = load_teacher(folder, device="cpu")
        assert teacher.default_size() == size and teacher.default_fps() == fps


def test_the_schedule_ends_in_pure_noise_whichever_the_scheduler(teacher: Teacher) -> None:
    """CogVideoX-5B comes with the DPM scheduler, whose noise levels are the same."""
    assert teacher.schedule.prediction == "v" and float(teacher.schedule.alpha(1.0)) < 1e-15
    dpm: Any = CogVideoXDPMScheduler
    assert read_scheduler(dpm.from_config(teacher.pipeline.scheduler.config)) == teacher.schedule


def test_another_network_without_blocks(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="no repeated blocks"):
        teacher.taps(torch.nn.Linear(1, 1))
