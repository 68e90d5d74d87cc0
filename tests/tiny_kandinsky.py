"""Random Kandinsky 5 pipelines of diffusers' own test sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    Kandinsky5I2VPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
)
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from fewstep.teacher.shapes.captions import vocabulary
from fewstep.teacher.shapes.text import make_tokenizer
from tests.tiny_pipelines import randomized, save_tiny

MARKS = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", ".", ",", ":", "\n")
_TEXT = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
}  # fmt: skip
_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
_TRANSFORMER: dict[str, Any] = {
    "in_visual_dim": 4,
    "out_visual_dim": 4,
    "in_text_dim": 16,
    "in_text_dim2": 8,
    "time_dim": 16,
    "patch_size": (1, 2, 2),
    "model_dim": 16,
    "ff_dim": 32,
    "num_text_blocks": 1,
    "num_visual_blocks": 4,
    "axes_dims": (2, 2, 4),
    "visual_cond": True,
    "attention_type": "regular",
}


def _qwen_tokenizer(template: str, start: int) -> PreTrainedTokenizerFast:
    """Words, signs and marks, of which the template's beginning has as many as the pipeline cuts away."""
    words = dict.fromkeys((*MARKS, *(word.rstrip(",") for word in vocabulary())))
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokens = Regex(r"<\|[a-z_]+\|>|[a-z]+|[.,:]|(?<=\.)\n")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokens, "removed", invert=True)
    assert len(tokenizer.encode(template.split("{}")[0]).ids) == start
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def save_tiny_kandinsky(folder: Path, image: bool = False, **config: Any) -> None:
    """Writes a random Kandinsky5T2VPipeline, or the one for images; `config` is that of the transformer."""
    torch.manual_seed(0)
    made: Any = Kandinsky5I2VPipeline if image else Kandinsky5T2VPipeline
    tokenizer_2 = make_tokenizer()
    tokenizer_2.model_max_length = 77
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer_2), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=tokenizer_2.pad_token_id, bos_token_id=None, eos_token_id=tokenizer_2.eos_token_id,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "vae": AutoencoderKLHunyuanVideo(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4
        ),
        "tokenizer_2": tokenizer_2,
        "text_encoder_2": CLIPTextModel(clip),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=5.0),
        "transformer": randomized(Kandinsky5Transformer3DModel(**_TRANSFORMER | config), 1),
    }
    empty = made(**parts, tokenizer=None, text_encoder=None)
    tokenizer = _qwen_tokenizer(empty.prompt_template, empty.prompt_template_encode_start_idx)
    qwen = Qwen2_5_VLConfig(text_config={**_TEXT, "vocab_size": len(tokenizer)}, vision_config=_VISION)
    encoder = randomized(Qwen2_5_VLForConditionalGeneration(qwen), 2)
    save_tiny(made(**parts, tokenizer=tokenizer, text_encoder=encoder), folder, num_frames=17 if image else 9)
