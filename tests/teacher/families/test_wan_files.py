"""Wan's original names."""

from __future__ import annotations

import torch
from diffusers import WanTransformer3DModel

from fewstep.teacher.families.wan_files import WAN_NAMES


def test_names_go_there_and_back_for_every_kind_of_wan() -> None:
    """Image models have more parts than text models: diffusers' converter must know all the names."""
    network = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, text_dim=8, freq_dim=16, ffn_dim=16, num_layers=2,
        cross_attn_norm=True, rope_max_seq_len=16, image_dim=8, added_kv_proj_dim=24,
    )  # fmt: skip
    state = network.state_dict()
    original = WAN_NAMES.original(state)
    back = WAN_NAMES.to_diffusers(original)
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    assert len(set(original)) == len(state)
    assert WAN_NAMES.to_original("blocks.0.attn2.to_out.0.lora_A.weight") == "blocks.0.cross_attn.o.lora_A.weight"
    assert WAN_NAMES.to_original("blocks.1.norm2.bias") == "blocks.1.norm3.bias"
    assert {"head.modulation", "blocks.0.modulation", "img_emb.proj.4.bias", "time_projection.1.weight"} <= set(
        original
    )
