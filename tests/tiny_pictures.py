"""Random pipelines of Stable Diffusion and SDXL, of diffusers' test sizes, which sample in a blink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fewstep.teacher.shapes.text import make_tokenizer
from tests.tiny_pipelines import randomized, save_tiny

TINY_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
TINY_SDXL: dict[str, Any] = TINY_UNET | {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 16,
    "cross_attention_dim": 32,
}


def pictures_tokenizer() -> Any:
    """CLIP's length: pipelines pad to what their tokenizer says."""
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 77
    return tokenizer


def tiny_clip(tokenizer: Any, seed: int, projected: bool = False) -> Any:
    """A random text encoder, which is wide enough for prompts to matter."""
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        projection_dim=16, pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)


def tiny_picture_vae() -> Any:
    """Two pixels a latent."""
    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=2,
    )  # fmt: skip


def usual_betas(**config: Any) -> Any:
    """The scheduler that comes with SDXL."""
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return EulerDiscreteScheduler(**{**betas, "steps_offset": 1, "timestep_spacing": "leading", **config})


def save_tiny_sd(folder: Path, seed: int = 1, safety_checker: Any = None, **config: Any) -> None:
    """Writes a random StableDiffusionPipeline; `config` is that of the UNet."""
    torch.manual_seed(0)
    tokenizer = pictures_tokenizer()
    unet: Any = UNet2DConditionModel(**{**TINY_UNET, **config})
    pipeline: Any = StableDiffusionPipeline(
        tokenizer=tokenizer, text_encoder=tiny_clip(tokenizer, seed), vae=tiny_picture_vae(),
        unet=randomized(unet, seed), scheduler=usual_betas(), safety_checker=safety_checker,
        feature_extractor=None if safety_checker is None else CLIPImageProcessorPil(crop_size=8, size=8),
        requires_safety_checker=safety_checker is not None,
    )  # fmt: skip
    save_tiny(pipeline, folder, num_frames=1)


def save_tiny_sdxl(folder: Path, **config: Any) -> None:
    """Writes a random StableDiffusionXLPipeline; `config` is that of the pipeline."""
    torch.manual_seed(0)
    tokenizer = pictures_tokenizer()
    unet: Any = UNet2DConditionModel(**TINY_SDXL)
    pipeline: Any = StableDiffusionXLPipeline(
        tokenizer=tokenizer, tokenizer_2=pictures_tokenizer(), text_encoder=tiny_clip(tokenizer, 2),
        text_encoder_2=tiny_clip(tokenizer, 3, projected=True), vae=tiny_picture_vae(), unet=randomized(unet, 1),
        scheduler=usual_betas(), add_watermarker=False, **config,
    )  # fmt: skip
    save_tiny(pipeline, folder, num_frames=1)
