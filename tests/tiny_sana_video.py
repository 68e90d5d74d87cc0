"""Random SANA-Video pipelines of diffusers' own test size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SanaImageToVideoPipeline,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from transformers import Gemma2Config, Gemma2Model

from fewstep.teacher.shapes.text import make_tokenizer
from tests.tiny_pipelines import randomized, save_tiny, tiny_wan_vae

TINY_SANA: dict[str, Any] = {
    "in_channels": 16,
    "out_channels": 16,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 4,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12,
    "cross_attention_dim": 24,
    "caption_channels": 8,
    "mlp_ratio": 2.5,
    "attention_bias": True,
    "sample_size": 8,
    "patch_size": (1, 2, 2),
    "rope_max_seq_len": 32,
}


def save_tiny_sana_video(folder: Path, image: bool = False, **config: Any) -> None:
    """Writes a random SanaVideoPipeline, or the one for images; `config` is that of the transformer."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    text = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    denoiser: Any = SanaVideoTransformer3DModel
    network = randomized(denoiser(**TINY_SANA | config), 1)
    for block in network.transformer_blocks:  # linear attention divides by a sum that few random tokens may leave at 0
        for layer, norm in ((block.attn1.to_q, block.attn1.norm_q), (block.attn1.to_k, block.attn1.norm_k)):
            layer.bias.data += 2
            norm.weight.data.abs_()
    made: Any = SanaImageToVideoPipeline if image else SanaVideoPipeline
    solver: Any = DPMSolverMultistepScheduler
    schedulers = {
        True: FlowMatchEulerDiscreteScheduler(shift=8.0),
        False: solver(use_flow_sigmas=True, flow_shift=8.0, prediction_type="flow_prediction"),
    }
    pipeline = made(
        tokenizer=tokenizer,
        text_encoder=Gemma2Model(text),
        vae=tiny_wan_vae(),
        transformer=network,
        scheduler=schedulers[image],
    )
    save_tiny(pipeline, folder, num_frames=9, side=32)
