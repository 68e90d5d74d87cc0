"""A random AnimateDiff pipeline with a ControlNet, of diffusers' test sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffControlNetPipeline,
    ControlNetModel,
    DDIMScheduler,
    MotionAdapter,
    UNet2DConditionModel,
    UNetMotionModel,
)

from tests.tiny_pictures import TINY_UNET, pictures_tokenizer, tiny_clip, tiny_picture_vae
from tests.tiny_pipelines import randomized, save_tiny

TINY_MOTION: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "motion_layers_per_block": 1,
    "motion_norm_num_groups": 2,
    "motion_num_attention_heads": 2,
}


def tiny_unet2d(seed: int) -> Any:
    """A random UNet of images, which a motion adapter fits."""
    return randomized(UNet2DConditionModel(**TINY_UNET), seed)


def save_tiny_controlnet(folder: Path, **config: Any) -> None:
    """Writes a random AnimateDiffControlNetPipeline; `config` is that of the ControlNet."""
    torch.manual_seed(0)
    tokenizer = pictures_tokenizer()
    motion = randomized(MotionAdapter(**TINY_MOTION), 3)
    controlnet: Any = ControlNetModel(
        **{
            "block_out_channels": (8, 16),
            "down_block_types": TINY_UNET["down_block_types"],
            "layers_per_block": 1,
            "norm_num_groups": 2,
            "cross_attention_dim": 16,
            "attention_head_dim": 2,
            "conditioning_embedding_out_channels": (8, 8),  # frames are twice as wide as latents
            **config,
        }
    )
    pipeline: Any = AnimateDiffControlNetPipeline(
        tokenizer=tokenizer, text_encoder=tiny_clip(tokenizer, 1), vae=tiny_picture_vae(),
        unet=UNetMotionModel.from_unet2d(tiny_unet2d(1), motion), motion_adapter=motion,
        controlnet=randomized(controlnet, 2),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="linear", clip_sample=False, timestep_spacing="trailing"
        ),
    )  # fmt: skip
    save_tiny(pipeline, folder, num_frames=4)
