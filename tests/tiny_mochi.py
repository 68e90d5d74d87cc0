"""Random Mochi pipelines of diffusers' own test sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel
from transformers import T5Config, T5EncoderModel

from fewstep.teacher.shapes.text import make_tokenizer
from tests.tiny_pipelines import randomized, save_tiny


def save_tiny_mochi(folder: Path, invert_sigmas: bool = True, **config: Any) -> None:
    """Writes a random MochiPipeline whose clips are 7 frames; `config` is that of the pipeline."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    text = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    transformer: Any = MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=4,
        pooled_projection_dim=16,
        in_channels=12,
        text_embed_dim=32,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    vae: Any = AutoencoderKLMochi(
        latent_channels=12,
        layers_per_block=(1, 1, 1, 1, 1),
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
    )
    pipeline: Any = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=invert_sigmas),
        vae=vae,
        text_encoder=T5EncoderModel(text),
        tokenizer=tokenizer,
        transformer=randomized(transformer, 1),
        **config,
    )
    save_tiny(pipeline, folder, num_frames=7)
