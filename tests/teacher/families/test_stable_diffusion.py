"""The adapters of Stable Diffusion and SDXL against diffusers' own pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from torch import Tensor
from transformers import CLIPConfig

from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.rollout import rollout
from tests.tiny_pictures import save_tiny_sd, save_tiny_sdxl

PROMPTS = ["a red circle", "a big blue square over a dark background"]


@pytest.fixture(scope="module", params=["tiny_sd_folder", "tiny_sdxl_folder"])
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Teacher:
    return load_teacher(folder, device="cpu")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    pipe: Any = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
    )
    return pipe


def stock(pipeline: Any, z: Tensor, guidance: float, negative: str, output_type: str = "latent") -> Tensor:
    """Four steps from our noise. Without a negative prompt the pipeline is given none."""
    actual: Tensor = pipeline(
        PROMPTS, height=24, width=16, num_inference_steps=4, guidance_scale=guidance, latents=z[:, :, 0],
        negative_prompt=[negative] * 2 if negative else None, output_type=output_type, return_dict=False,
    )[0]  # fmt: skip
    return actual


@pytest.mark.parametrize(
    ("guidance", "negative"), [(1.0, ""), pytest.param(6.0, "", marks=pytest.mark.slow), (6.0, "blurry")]
)
def test_same_noise_gives_the_stock_latents(teacher: Teacher, pipeline: Any, guidance: float, negative: str) -> None:
    z = teacher.noise([5, 6], teacher.latent_shape(1, 24, 16))
    actual = rollout(teacher, z, teacher.conditions(PROMPTS, negative), teacher.schedule.grid(4), guidance)
    expected = stock(pipeline, z, guidance, negative)
    assert float((actual[:, :, 0] - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    pictures = stock(pipeline, z, guidance, negative, "pt")
    torch.testing.assert_close((teacher.decode(actual)[:, :, 0] / 2 + 0.5).clamp(0, 1), pictures, atol=1e-4, rtol=1e-4)


def test_the_middle_block_is_sixty_per_cent_deep_and_nothing_runs_behind_it(teacher: Teacher) -> None:
    unet, z = teacher.pipeline.unet, teacher.noise([0], teacher.latent_shape(1, 16, 24))
    assert teacher.blocks(unet) == [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    assert teacher.taps(unet, (0.6,)) == [unet.mid_block]
    ran: list[str] = []
    handle = unet.up_blocks[0].register_forward_hook(lambda *_: ran.append("up"))
    (feature,) = teacher.features(z, 0.7, teacher.conditions(["x"]), (0.6,))
    assert tuple(feature.shape) == (1, 16, 1, 4, 6) and not ran
    teacher.features(z, 0.7, teacher.conditions(["x"]))
    handle.remove()
    assert ran == ["up"]


@pytest.mark.parametrize(("levels", "middle"), [(2, 2), (3, 3), (4, 4)])
def test_sixty_per_cent_is_the_middle_of_every_usual_unet(teacher: Teacher, levels: int, middle: int) -> None:
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(
            block_out_channels=(32,) * levels, down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
        )  # fmt: skip
    assert teacher.taps(unet, (0.6,)) == [teacher.blocks(unet)[middle]] == [unet.mid_block]


def test_pictures_have_one_frame_and_sides_of_whole_eights(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match=r"16 frames cannot be made: a StableDiffusion.* makes images, so use 1"):
        teacher.latent_shape(16, 16, 16)
    with pytest.raises(ValueError, match="height 12 cannot be made: use a multiple of 8"):
        teacher.latent_shape(1, 12, 16)


def test_latents_with_a_mean_of_their_own_come_back(teacher: Teacher) -> None:
    video, config = torch.rand(2, 3, 1, 16, 16) * 2 - 1, teacher.pipeline.vae.config
    plain = teacher.encode(video)
    teacher.pipeline.vae.register_to_config(latents_mean=[0.5] * 4, latents_std=[2.0] * 4)
    try:
        moved = teacher.encode(video)
        raw = plain / config.scaling_factor
        torch.testing.assert_close(moved, (raw - 0.5) * config.scaling_factor / 2, atol=1e-5, rtol=1e-4)
        again = teacher.decode(moved)
    finally:
        teacher.pipeline.vae.register_to_config(latents_mean=None, latents_std=None)
    torch.testing.assert_close(again, teacher.decode(plain), atol=1e-4, rtol=1e-4)


def test_the_safety_checker_is_left_on_the_disk(tmp_path: Path) -> None:
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 8, "patch_size": 4, "projection_dim": 8}
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    save_tiny_sd(tmp_path, safety_checker=checker)
    assert "StableDiffusionSafetyChecker" in (tmp_path / "model_index.json").read_text()
    assert load_teacher(tmp_path, device="cpu").pipeline.safety_checker is None


def test_other_pipelines_of_these_classes_are_refused(tmp_path: Path) -> None:
    save_tiny_sdxl(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None]}))
    with pytest.raises(ValueError, match="use that, not its refiner"):
        outline_teacher(tmp_path)
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    unet = tmp_path / "unet" / "config.json"
    config = json.loads(unet.read_text())
    unet.write_text(json.dumps(config | {"time_cond_proj_dim": 256}))
    with pytest.raises(ValueError, match="takes its guidance as an input"):
        outline_teacher(tmp_path)
    unet.write_text(json.dumps(config | {"cross_attention_dim": 48}))
    with pytest.raises(ValueError, match=r"hidden_size are 16 and 16, unet\.cross_attention_dim is 48"):
        outline_teacher(tmp_path)
