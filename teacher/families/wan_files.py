"""Wan in other tools' files: its original key names, as ComfyUI and the model's own code have them, and its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from fewstep.teacher.stock import ComfyUI, OriginalNames

# In this order: longer names first, and norm2 and norm3 change places.
_RENAMES = (
    ("condition_embedder.image_embedder.norm1", "img_emb.proj.0"),
    ("condition_embedder.image_embedder.ff.net.0.proj", "img_emb.proj.1"),
    ("condition_embedder.image_embedder.ff.net.2", "img_emb.proj.3"),
    ("condition_embedder.image_embedder.norm2", "img_emb.proj.4"),
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    (".to_out.0.", ".o."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".add_k_proj.", ".k_img."),
    (".add_v_proj.", ".v_img."),
    (".norm_added_k.", ".norm_k_img."),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    ("proj_out", "head.head"),
    ("norm2", "norm__3"),
    ("norm3", "norm2"),
    ("norm__3", "norm3"),
)


def to_original(name: str) -> str:
    """A tensor's name in diffusers -> its name in the original code, also of adapters on it."""
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in _RENAMES:
        name = name.replace(ours, theirs)
    return name.replace("scale_shift_table", "modulation")


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under their original names, with ComfyUI's prefix or not -> diffusers' names, by its own converter."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    return dict(convert_wan_transformer_to_diffusers(dict(state)))


WAN_NAMES = OriginalNames(to_original, to_diffusers)

COMFYUI = ComfyUI(
    model="Wan",
    architecture="wan",
    shift=8.0,
    # It counts channels, layers and widths, and knows the rest; for other channels it has another autoencoder.
    expected={
        "attention_head_dim": 128,
        "freq_dim": 256,
        "text_dim": 4096,
        "patch_size": (1, 2, 2),
        "in_channels": 16,
        "out_channels": 16,
        "qk_norm": "rms_norm_across_heads",
        "cross_attn_norm": True,
        "eps": 1e-6,
    },
    expected_vae={"z_dim": 16, "scale_factor_spatial": 8, "scale_factor_temporal": 4},
    text_encoder=("CLIPLoader", {"clip_name": "umt5_xxl_fp16.safetensors", "type": "wan"}),
    vae=("VAELoader", {"vae_name": "wan_2.1_vae.safetensors"}),
    noise=("EmptyHunyuanLatentVideo", {}),
)

# Of 48 channels, 16 pixels a latent's side
COMFYUI_5B = replace(
    COMFYUI,
    expected={**COMFYUI.expected, "in_channels": 48, "out_channels": 48},
    expected_vae={"z_dim": 48, "scale_factor_spatial": 16, "scale_factor_temporal": 4},
    vae=("VAELoader", {"vae_name": "wan2.2_vae.safetensors"}),
    noise=("Wan22ImageToVideoLatent", {"vae": ["vae", 0]}),
)
