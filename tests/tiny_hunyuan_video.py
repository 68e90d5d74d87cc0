"""Random HunyuanVideo pipelines of diffusers' own test sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video, pipeline_hunyuan_video_image2video
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fewstep.teacher.shapes.captions import vocabulary
from fewstep.teacher.shapes.text import make_tokenizer
from tests.tiny_pipelines import randomized, save_tiny

MARKS = ("<pad>", "<begin>", "<unk>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>", "\n\n", "\n")
TEXT = {"hidden_size": 16, "intermediate_size": 37, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 4}


def llama_tokenizer(template: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Words, signs and Llama 3's marks, so that the template's beginning has as many as the pipeline cuts away."""
    words = dict.fromkeys((*MARKS, *".,:0123456789", *(word.rstrip(",") for word in vocabulary())))
    ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokens = Regex(r"<[|a-z_]+>|\n+|behav(?=iors)|[a-z]+|[.,:0-9]")  # one word has two tokens there, too
    tokenizer.pre_tokenizer = pre_tokenizers.Split(tokens, "removed", invert=True)
    special = [("<begin>", ids["<begin>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<begin> $A", special_tokens=special)
    assert len(tokenizer.encode(template["template"].split("{}")[0]).ids) == template["crop_start"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<begin>", unk_token="<unk>"
    )


def _transformer(**config: Any) -> Any:
    return randomized(
        HunyuanVideoTransformer3DModel(
            **{
                "in_channels": 4,
                "out_channels": 4,
                "num_attention_heads": 2,
                "attention_head_dim": 10,
                "num_layers": 2,
                "num_single_layers": 2,
                "num_refiner_layers": 1,
                "patch_size": 1,
                "text_embed_dim": 16,
                "pooled_projection_dim": 8,
                "rope_axes_dim": (2, 4, 4),
                **config,
            }
        ),
        seed=1,
    )


def _parts() -> dict[str, Any]:
    """All but Llama and the transformer."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 77
    clip = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    vae = AutoencoderKLHunyuanVideo(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4
    )
    return {
        "tokenizer_2": tokenizer,
        "text_encoder_2": CLIPTextModel(clip),
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def save_tiny_hunyuan_video(folder: Path, **config: Any) -> None:
    """Writes a random HunyuanVideoPipeline; `config` is that of the transformer."""
    tokenizer, parts = llama_tokenizer(pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE), _parts()
    llama = randomized(LlamaModel(LlamaConfig(**TEXT, vocab_size=len(tokenizer), pad_token_id=0)), 3)
    pipeline: Any = HunyuanVideoPipeline(
        tokenizer=tokenizer, text_encoder=llama, transformer=_transformer(**config), **parts
    )
    save_tiny(pipeline, folder, num_frames=9)


def save_tiny_hunyuan_video_image(folder: Path, kind: str = "latent_concat", **config: Any) -> None:
    """Writes a random HunyuanVideoImageToVideoPipeline whose transformer sees images in this way."""
    tokenizer, parts = llama_tokenizer(pipeline_hunyuan_video_image2video.DEFAULT_PROMPT_TEMPLATE), _parts()
    vision = CLIPVisionConfig(
        hidden_size=8, projection_dim=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37,
        image_size=28, patch_size=7,
    )  # fmt: skip
    llama = LlamaConfig(**TEXT, vocab_size=len(tokenizer), pad_token_id=0)
    image = tokenizer.convert_tokens_to_ids("<image>")
    llava = LlavaConfig(vision_config=vision, text_config=llama, pad_token_id=0, image_token_index=image)
    channels = {"in_channels": 9, "guidance_embeds": False} if kind == "latent_concat" else {}
    pipeline: Any = HunyuanVideoImageToVideoPipeline(
        tokenizer=tokenizer,
        text_encoder=randomized(LlavaForConditionalGeneration(llava), 3),
        transformer=_transformer(image_condition_type=kind, **channels | config),
        image_processor=CLIPImageProcessorPil(crop_size=28, size=28),
        **parts,
    )
    save_tiny(pipeline, folder, num_frames=9)
