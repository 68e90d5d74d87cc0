"""Random LTX-2 pipelines of diffusers' own test sizes: clips with sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    FlowMatchEulerDiscreteScheduler,
    LTX2ImageToVideoPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from transformers import Gemma3Config, Gemma3ForConditionalGeneration

from fewstep.teacher.shapes.text import make_tokenizer
from tests.tiny_ltx import BY_SIZE
from tests.tiny_pipelines import randomized, save_tiny

LTX2: dict[str, Any] = {"text": LTX2Pipeline, "image": LTX2ImageToVideoPipeline}
NEWER: dict[str, Any] = {
    "cross_attn_mod": True,
    "audio_cross_attn_mod": True,
    "perturbed_attn": True,
    "gated_attn": True,
}  # LTX-2.3


def save_tiny_ltx2(folder: Path, kind: str = "text", **transformer: Any) -> None:
    """Writes a random LTX-2 pipeline of one of the kinds above; transformer: settings of its denoiser.

    At 12.5 frames per second the sound of 9 frames takes 18 tokens.
    """
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    settings = {
        "in_channels": 4, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 8,
        "cross_attention_dim": 16, "audio_in_channels": 4, "audio_out_channels": 4, "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 4, "audio_cross_attention_dim": 8, "num_layers": 4, "caption_channels": 32,
        "rope_double_precision": False, "rope_type": "split", "vae_scale_factors": (2, 32, 32),
    }  # fmt: skip
    pipeline = LTX2[kind](
        tokenizer=tokenizer,
        text_encoder=tiny_gemma(len(tokenizer)),
        connectors=randomized(tiny_connectors(), 2),
        vae=tiny_ltx2_vae(),
        audio_vae=tiny_audio_vae(),
        vocoder=LTX2Vocoder(
            in_channels=16, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
            resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
        ),
        transformer=randomized(LTX2VideoTransformer3DModel(**settings | transformer), 1),
        scheduler=FlowMatchEulerDiscreteScheduler(**BY_SIZE),
    )  # fmt: skip
    save_tiny(pipeline, folder, num_frames=9, side=32)
    text = folder / "fewstep.json"
    text.write_text(json.dumps(json.loads(text.read_text()) | {"fps": 12.5}))


def tiny_gemma(vocab_size: int) -> Any:
    """A text encoder of two layers."""
    text = {
        "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 32,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4))


def tiny_connectors() -> Any:
    """From three states of the text encoder to both streams, without learned registers."""
    return LTX2TextConnectors(
        caption_channels=32, text_proj_in_factor=3, video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8, video_connector_num_layers=1,
        video_connector_num_learnable_registers=None, audio_connector_num_attention_heads=4,
        audio_connector_attention_head_dim=8, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32, rope_double_precision=False,
        rope_type="split",
    )  # fmt: skip


def tiny_ltx2_vae() -> Any:
    """Of 2 frames and 32 pixels a latent's side, whose channels have means and deviations."""
    vae: Any = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1,),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False), downsample_type=("spatial",), upsample_residual=(False,),
        upsample_factor=(1,), timestep_conditioning=False, patch_size=16, patch_size_t=1, encoder_causal=True,
        decoder_causal=False, decoder_spatial_padding_mode="zeros",
    )  # fmt: skip
    vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, 4))
    vae.latents_std.copy_(torch.linspace(0.5, 1.5, 4))
    return vae


def tiny_audio_vae() -> Any:
    """Of 2 channels and 2 rows of frequencies, 4 for each token, with means and deviations."""
    vae: Any = AutoencoderKLLTX2Audio(
        base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, in_channels=2, resolution=32,
        latent_channels=2, norm_type="pixel", causality_axis="height", sample_rate=16000, mel_hop_length=160,
        is_causal=True, mel_bins=8,
    )  # fmt: skip
    vae.latents_mean.copy_(torch.linspace(-0.2, 0.2, 4))
    vae.latents_std.copy_(torch.linspace(0.8, 1.2, 4))
    return vae
