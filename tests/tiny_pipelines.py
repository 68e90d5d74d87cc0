"""Random pipelines of diffusers' own test sizes, one writer per family: they sample in a blink."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DDIMScheduler,
    FlowMapEulerDiscreteScheduler,
    UNetMotionModel,
    WanAnimatePipeline,
    WanAnimateTransformer3DModel,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel, T5Config, T5EncoderModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from fewstep.teacher.shapes.text import TEXT_DIM, make_text_encoder, make_tokenizer


def randomized(denoiser: Any, seed: int) -> Any:
    """The denoiser without its small first weights: text and time must matter."""
    torch.manual_seed(seed)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return denoiser


def save_tiny(pipeline: Any, folder: Path, num_frames: int, side: int = 16) -> None:
    pipeline.save_pretrained(folder)
    size = {"num_frames": num_frames, "height": side, "width": side, "fps": 8}
    (folder / "fewstep.json").write_text(json.dumps(size))


TINY_WAN: dict[str, Any] = {  # diffusers' own test size
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": TEXT_DIM,
    "freq_dim": 64,
    "ffn_dim": 32,
    "num_layers": 4,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 32,
}


def tiny_transformer(seed: int, num_layers: int = 2) -> Any:
    """A random Wan denoiser: steps, and files of weights, take as long as there are layers."""
    return randomized(WanTransformer3DModel(**TINY_WAN | {"num_layers": num_layers}), seed)


def save_tiny_wan(folder: Path, experts: int = 1, side: int = 16, **given: Any) -> None:
    """Writes a random WanPipeline with a default size; `given` are settings of the pipeline, and other parts."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": make_text_encoder(len(tokenizer)),
        "vae": tiny_wan_vae(),
        "scheduler": FlowMapEulerDiscreteScheduler(shift=5.0),
        "transformer": tiny_transformer(1),
        "transformer_2": tiny_transformer(2) if experts == 2 else None,
    }
    save_tiny(WanPipeline(**parts | given), folder, num_frames=9, side=side)


def tiny_wan_vae() -> Any:
    """Of Wan 2.1."""
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def tiny_wan22_vae() -> Any:
    """Of Wan 2.2 5B: 48 channels, 16 pixels wide."""
    return AutoencoderKLWan(
        base_dim=3, z_dim=48, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        in_channels=12, out_channels=12, patch_size=2, is_residual=True, scale_factor_spatial=16,
        latents_mean=[0.1] * 48, latents_std=[0.9] * 48,
    )  # fmt: skip


def tiny_wan22_5b(folder: Path) -> None:
    """Writes a random WanPipeline such as Wan 2.2 5B."""
    wide = randomized(WanTransformer3DModel(**TINY_WAN | {"in_channels": 48, "out_channels": 48}), 1)
    save_tiny_wan(folder, side=32, vae=tiny_wan22_vae(), transformer=wide, expand_timesteps=True)


GIVEN_WAN = ("i2v", "flf2v", "5b-i2v", "a14b-i2v", "vace", "animate")  # Wan pipelines that clips are given something by


TINY_FACE: dict[str, Any] = {
    "motion_encoder_channel_sizes": {"4": 4, "8": 4, "16": 4},
    "motion_encoder_size": 16,
    "motion_style_dim": 8,
    "motion_dim": 4,
    "motion_encoder_dim": 8,
    "face_encoder_hidden_dim": 8,
    "face_encoder_num_heads": 2,
    "inject_face_latents_blocks": 2,
}


def save_tiny_given_wan(folder: Path, kind: str, **config: Any) -> None:
    """Writes a random Wan pipeline of one of the kinds above; `config` is that of the pipeline."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "text_encoder": make_text_encoder(len(tokenizer)),
        "vae": tiny_wan22_vae() if kind == "5b-i2v" else tiny_wan_vae(),
        "scheduler": FlowMapEulerDiscreteScheduler(shift=5.0),
    }
    if kind == "vace":
        vace: Any = WanVACETransformer3DModel(**TINY_WAN, vace_layers=[0, 2], vace_in_channels=96)
        pipeline: Any = WanVACEPipeline(**parts, transformer=randomized(vace, 1), **config)
    elif kind == "5b-i2v":
        wide = randomized(WanTransformer3DModel(**TINY_WAN | {"in_channels": 48, "out_channels": 48}), 1)
        pipeline = WanImageToVideoPipeline(**parts, transformer=wide, expand_timesteps=True, **config)
    elif kind == "a14b-i2v":
        experts = {
            name: randomized(WanTransformer3DModel(**TINY_WAN | {"in_channels": 36}), seed)
            for name, seed in (("transformer", 1), ("transformer_2", 2))
        }
        pipeline = WanImageToVideoPipeline(**parts, **experts, boundary_ratio=0.9, **config)
    else:
        tokens = (16 // 8) ** 2 + 1  # of one image
        seen = {"in_channels": 36, "image_dim": 4, "pos_embed_seq_len": 2 * tokens if kind == "flf2v" else None}
        if kind != "flf2v":
            seen["added_kv_proj_dim"] = 24
        vision = CLIPVisionConfig(
            hidden_size=4, projection_dim=4, num_hidden_layers=2, num_attention_heads=2, image_size=16,
            intermediate_size=16, patch_size=8,
        )  # fmt: skip
        made: Any = WanImageToVideoPipeline
        denoiser: Any = WanTransformer3DModel
        if kind == "animate":
            made, denoiser = WanAnimatePipeline, WanAnimateTransformer3DModel
            seen |= {"latent_channels": 16, "added_kv_proj_dim": None, **TINY_FACE}
        network = randomized(denoiser(**TINY_WAN | seen), 1)
        if kind == "animate":  # with smaller weights faces leave no trace in single precision
            for parameter in network.motion_encoder.parameters():
                parameter.data *= 20
        pipeline = made(
            **parts,
            transformer=network,
            image_encoder=randomized(CLIPVisionModel(vision), 2),
            image_processor=CLIPImageProcessorPil(crop_size=16, size=16),
            **config,
        )
    side = 32 if kind == "5b-i2v" else 16
    save_tiny(pipeline, folder, num_frames=9, side=side)


def save_tiny_cogvideox(folder: Path, **config: Any) -> None:
    """Writes a random CogVideoXPipeline, as 5B unless `config`, that of the transformer, says otherwise."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    transformer = CogVideoXTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 16,  # the least that rotary embeddings of three axes go into
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 16,
            "text_embed_dim": 32,
            "num_layers": 4,
            "sample_width": 2,
            "sample_height": 2,
            "sample_frames": 9,
            "max_text_seq_length": 16,
            "use_rotary_positional_embeddings": True,
            **config,
        }
    )
    pipeline: Any = CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=T5EncoderModel(
            T5Config(vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
        ),
        vae=AutoencoderKLCogVideoX(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
        ),
        transformer=randomized(transformer, seed=1),
        scheduler=CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
        ),
    )
    save_tiny(pipeline, folder, num_frames=9)


def save_tiny_animatediff(folder: Path, **config: Any) -> None:
    """Writes a random AnimateDiffPipeline; `config` is that of the UNet."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 77  # the pipeline pads to what its tokenizer says
    unet = UNetMotionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
            "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
            "layers_per_block": 1,
            "norm_num_groups": 2,
            "cross_attention_dim": 16,
            "num_attention_heads": 2,
            "motion_num_attention_heads": 2,
            **config,
        }
    )
    pipeline: Any = AnimateDiffPipeline(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=None,
                eos_token_id=tokenizer.eos_token_id,
            )
        ),
        vae=AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=2,
        ),
        unet=randomized(unet, seed=1),
        motion_adapter=None,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="linear",
            clip_sample=False,
            timestep_spacing="trailing",
        ),
    )
    save_tiny(pipeline, folder, num_frames=4)


def save_tiny_wide_wan(folder: Path) -> None:
    """A Wan teacher of two blocks, 256 wide: nearly all of its weights are of a size that is kept in blocks."""
    save_tiny_wan(folder)
    old: Any = WanTransformer3DModel.from_pretrained(folder / "transformer")
    wider = {"attention_head_dim": 128, "num_layers": 2, "ffn_dim": 512}
    torch.manual_seed(0)
    WanTransformer3DModel.from_config({**old.config, **wider}).save_pretrained(folder / "transformer")
