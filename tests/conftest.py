"""What every test may ask for: one thread, and a random teacher that samples in a blink."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMapEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

from fewstep.teacher.base import Teacher, load_teacher
from fewstep.teacher.shapes.text import TEXT_DIM, make_text_encoder, make_tokenizer

torch.set_num_threads(1)  # two threads on a busy machine can be 90 times slower than one


def tiny_transformer(seed: int) -> Any:
    """diffusers' own test size, without its small weights: text and time must matter."""
    torch.manual_seed(seed)
    transformer: Any = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=TEXT_DIM,
        freq_dim=64,
        ffn_dim=32,
        num_layers=4,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return transformer


def save_tiny_wan(folder: Path, experts: int = 1, **config: Any) -> None:
    """Writes a random WanPipeline with a default size; `config` is that of the pipeline."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    pipeline: Any = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=make_text_encoder(len(tokenizer)),
        vae=AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        scheduler=FlowMapEulerDiscreteScheduler(shift=5.0),
        transformer=tiny_transformer(1),
        transformer_2=tiny_transformer(2) if experts == 2 else None,
        **config,
    )
    pipeline.save_pretrained(folder)
    (folder / "fewstep.json").write_text(json.dumps({"num_frames": 9, "height": 16, "width": 16, "fps": 8}))


@pytest.fixture(scope="session")
def make_tiny_wan() -> Callable[..., None]:
    """`save_tiny_wan`, for tests that need a variant."""
    return save_tiny_wan


@pytest.fixture(scope="session")
def tiny_wan_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Wan pipeline folder, as save_pretrained writes it; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny-wan")
    save_tiny_wan(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tiny_wan_folder: Path) -> Teacher:
    """The teacher of that folder, shared by all tests: whoever frees a part of it loads their own."""
    return load_teacher(tiny_wan_folder, device="cpu")
