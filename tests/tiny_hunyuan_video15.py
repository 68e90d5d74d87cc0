"""Random HunyuanVideo 1.5 pipelines of diffusers' own test sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideo15ImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
)
from diffusers.pipelines.hunyuan_video1_5.pipeline_hunyuan_video1_5 import format_text_input
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    ByT5Tokenizer,
    PreTrainedTokenizerFast,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from fewstep.teacher.shapes.captions import vocabulary
from tests.tiny_pipelines import randomized, save_tiny

_SIDE = 32
_TARGET = 39  # so that the pipeline makes 32 x 32 and 32 x 48 pixels of images of these sizes
_CHAT = "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }}<|im_end|>{% endfor %}"


def _qwen_tokenizer(system_message: str, crop_start: int) -> PreTrainedTokenizerFast:
    """Words, within a template whose beginning has as many tokens as the pipeline cuts away, and whose end has one."""
    words = dict.fromkeys(word.rstrip(",") for word in vocabulary())
    ids = {word: i for i, word in enumerate(("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", *words))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"<\|[a-z_]+\|>|[a-z]+"), "removed", invert=True)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    made.chat_template = _CHAT
    (empty,) = made.apply_chat_template(format_text_input([""], system_message), return_dict=True).input_ids
    made.chat_template = "<|im_start|>" * (crop_start - len(empty) + 1) + _CHAT
    return made


def save_tiny_hunyuan_video15(folder: Path, pictures: bool = False, **config: Any) -> None:
    """Writes a random HunyuanVideo15Pipeline, or the one for images; `config` is that of the transformer."""
    torch.manual_seed(0)
    kind: Any = HunyuanVideo15ImageToVideoPipeline if pictures else HunyuanVideo15Pipeline
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=4, num_refiner_layers=1,
        mlp_ratio=2.0, text_embed_dim=16, text_embed_2_dim=32, image_embed_dim=12, rope_axes_dim=(2, 2, 4),
        target_size=_TARGET, task_type="i2v" if pictures else "t2v", **config,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "transformer": randomized(transformer, 4),
        "vae": AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(16, 16, 16, 16), layers_per_block=1, spatial_compression_ratio=8,
            temporal_compression_ratio=4, downsample_match_channel=False, upsample_match_channel=False,
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
        "text_encoder_2": T5EncoderModel(T5Config(d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)),
        "tokenizer_2": ByT5Tokenizer(),
        "guider": ClassifierFreeGuidance(guidance_scale=6.0),
    }  # fmt: skip
    if pictures:
        vision = SiglipVisionConfig(
            hidden_size=12, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14,
        )  # fmt: skip
        parts["image_encoder"] = randomized(SiglipVisionModel(vision), 2)
        parts["feature_extractor"] = SiglipImageProcessorPil(size={"height": 28, "width": 28})
    text = Qwen2_5_VLTextConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6}, vocab_size=152,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    encoder = randomized(Qwen2_5_VLTextModel(text), 3)
    made = kind(**parts, text_encoder=encoder, tokenizer=None)
    tokenizer = _qwen_tokenizer(made.system_message, made.prompt_template_encode_start_idx)
    assert len(tokenizer) <= text.vocab_size
    save_tiny(kind(**parts, text_encoder=encoder, tokenizer=tokenizer), folder, num_frames=9, side=_SIDE)
