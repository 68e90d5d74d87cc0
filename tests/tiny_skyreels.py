"""Random SkyReels V2 pipelines of diffusers' own test size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
)
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fewstep.teacher.shapes.text import make_text_encoder, make_tokenizer
from tests.tiny_pipelines import TINY_WAN, randomized, save_tiny, tiny_wan_vae


def save_tiny_skyreels(folder: Path, image: bool = False, **config: Any) -> None:
    """Writes a random SkyReelsV2Pipeline, or the one for images; `config` is that of the transformer."""
    torch.manual_seed(0)
    tokenizer, seen, more = make_tokenizer(), dict[str, Any](), dict[str, Any]()
    if image:
        seen = {"in_channels": 36, "image_dim": 4, "added_kv_proj_dim": 24}
        vision = CLIPVisionConfig(
            hidden_size=4, projection_dim=4, num_hidden_layers=2, num_attention_heads=2, image_size=16,
            intermediate_size=16, patch_size=8,
        )  # fmt: skip
        more = {
            "image_encoder": randomized(CLIPVisionModelWithProjection(vision), 2),
            "image_processor": CLIPImageProcessorPil(crop_size=16, size=16),
        }
    denoiser: Any = SkyReelsV2Transformer3DModel
    made: Any = SkyReelsV2ImageToVideoPipeline if image else SkyReelsV2Pipeline
    pipeline = made(
        tokenizer=tokenizer,
        text_encoder=make_text_encoder(len(tokenizer)),
        vae=tiny_wan_vae(),
        scheduler=UniPCMultistepScheduler(flow_shift=8.0, use_flow_sigmas=True, prediction_type="flow_prediction"),
        transformer=randomized(denoiser(**TINY_WAN | seen | config), 1),
        **more,
    )
    save_tiny(pipeline, folder, num_frames=9)
