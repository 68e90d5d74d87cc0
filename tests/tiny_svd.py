"""A random pipeline of Stable Video Diffusion, of diffusers' own test sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.tiny_pipelines import randomized, save_tiny

WIDTH = 16  # of CLIP's embedding


def save_tiny_svd(folder: Path, **config: Any) -> None:
    """Writes a random StableVideoDiffusionPipeline; `config` is that of the UNet."""
    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        **{
            "sample_size": 8,
            "num_frames": 4,
            "block_out_channels": (32, 64),  # the least: its norms have 32 groups
            "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            "cross_attention_dim": WIDTH,
            "num_attention_heads": 2,
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 24,
            "layers_per_block": 1,
            **config,
        }
    )
    vision = CLIPVisionConfig(
        hidden_size=16, projection_dim=WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=224,
        intermediate_size=16, patch_size=56,
    )  # fmt: skip
    pipeline: Any = StableVideoDiffusionPipeline(
        vae=AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, layers_per_block=1
        ),
        image_encoder=randomized(CLIPVisionModelWithProjection(vision), 2),
        unet=randomized(unet, 1),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            interpolation_type="linear",
            num_train_timesteps=1000,
            prediction_type="v_prediction",
            sigma_max=700.0,
            sigma_min=0.002,
            steps_offset=1,
            timestep_spacing="leading",
            timestep_type="continuous",
            use_karras_sigmas=True,
        ),
        feature_extractor=CLIPImageProcessorPil(crop_size=224, size=224),
    )
    save_tiny(pipeline, folder, num_frames=4)
