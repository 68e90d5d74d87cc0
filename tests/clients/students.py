"""Students of random weights whose files other programs recognise: heads of 128, texts of 4096."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from transformers import UMT5Config, UMT5EncoderModel

from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles, Train
from fewstep.student.load_student import load_student
from fewstep.student.loading import Student
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.shapes.text import make_tokenizer
from tests.tiny_pipelines import TINY_WAN, randomized, save_tiny_wan, tiny_wan22_vae

NEGATIVE = "blurry, still"
_SIZES = {"num_attention_heads": 1, "attention_head_dim": 128, "text_dim": 4096, "freq_dim": 256, "ffn_dim": 64}


def save_teacher(folder: Path, channels: int = 16) -> None:
    """A pipeline as Wan 2.1's, or with 48 channels as Wan 2.2 5B's."""
    torch.manual_seed(0)
    config = {**TINY_WAN, **_SIZES, "num_layers": 2, "in_channels": channels, "out_channels": channels}
    network: Any = WanTransformer3DModel(**config)
    text = UMT5Config(
        vocab_size=len(make_tokenizer()), d_model=4096, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    parts: dict[str, Any] = {"transformer": randomized(network, 1), "text_encoder": UMT5EncoderModel(text)}
    for parameter in network.parameters():
        parameter.data *= 0.25  # or rounding alone would be most of what a text does
    if channels == 48:
        parts |= {"vae": tiny_wan22_vae(), "expand_timesteps": True}
    save_tiny_wan(folder, side=32, **parts)


def make_student(folder: Path, stage: Path, train: Train, steps: int = 4, **lora: Any) -> Student:
    """A student that was never trained, but differs from the teacher in `folder`."""
    teacher = load_teacher(folder, device="cpu")
    size = teacher.default_size()
    assert size is not None
    stage.mkdir(parents=True)
    roles = Roles(teacher, train, rank=4, alpha=8, **lora)
    torch.manual_seed(5)
    for parameter in roles.average.values():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    roles.save(stage)
    SamplingContract.of(teacher, str(folder), steps, train, size, 3.0, NEGATIVE, 8.0).write(stage)
    return load_student(stage, device="cpu")
