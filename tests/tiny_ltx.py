"""Random LTX pipelines of diffusers' own test sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTXVideo,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel

from fewstep.teacher.shapes.text import make_tokenizer
from tests.tiny_pipelines import randomized, save_tiny

LTX: dict[str, Any] = {
    "text": LTXPipeline,
    "image": LTXImageToVideoPipeline,
    "condition": LTXConditionPipeline,
}
BY_SIZE = {  # Lightricks/LTX-Video's scheduler
    "use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024,
    "max_image_seq_len": 4096, "shift_terminal": 0.1,
}  # fmt: skip


def save_tiny_ltx(folder: Path, kind: str = "text", timed_decoder: bool = False) -> None:
    """Writes a random LTX pipeline of one of the kinds above; timed_decoder: as 0.9.1 and later have it."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
        num_layers=4, caption_channels=32,
    )  # fmt: skip
    pipeline = LTX[kind](
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
        ),
        vae=tiny_ltx_vae(timed_decoder),
        transformer=randomized(transformer, 1),
        scheduler=FlowMatchEulerDiscreteScheduler(**{} if kind == "condition" else BY_SIZE),
    )
    save_tiny(pipeline, folder, num_frames=9, side=32)


def tiny_ltx_vae(timed_decoder: bool) -> Any:
    """Of 8 frames and 32 pixels a latent's side, whose channels have means and deviations."""
    vae: Any = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, True, False), decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False, False, False, False, False), upsample_residual=(False, False, False, False),
        upsample_factor=(1, 1, 1, 1), timestep_conditioning=timed_decoder, patch_size=4, patch_size_t=1,
        encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, 8))
    vae.latents_std.copy_(torch.linspace(0.5, 1.5, 8))
    return vae
