"""Wan's original key names, as ComfyUI and the model's own code have them; the inverse of diffusers' converter."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

CHECKPOINT_PREFIX = "model.diffusion_model."  # what ComfyUI looks for in a whole model, and strips
LORA_PREFIX = "diffusion_model."  # and in a LoRA

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


def to_original_state(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """All tensors under their original names, on the CPU."""
    return {prefix + to_original(name): tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def from_original_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Back to diffusers' names, by its own converter."""
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    return dict(convert_wan_transformer_to_diffusers(dict(state)))
