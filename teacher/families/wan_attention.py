"""Wan's attention over a text whose padding is counted instead of computed."""

from __future__ import annotations

import math

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor, WanTransformerBlock
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformerBlock
from torch import Tensor

WAN_TEXT_LENGTH = 512  # WanPipeline's default max_sequence_length: shorter prompts are padded with zeros, unmasked


class CountedPadding(WanAttnProcessor):  # type: ignore[misc]
    """Cross-attention in which the last text token stands for all those missing up to `text_length`.

    WanPipeline pads every prompt to 512 zero embeddings and attends to all of them. They are equal, so
    attending to one of them with log(count) added to its logit gives the same result; for a small model that
    halves the cost.
    """

    def __init__(self, text_length: int = WAN_TEXT_LENGTH) -> None:
        super().__init__()
        self.text_length = text_length

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None and encoder_hidden_states.shape[1] < self.text_length:
            tokens = encoder_hidden_states.shape[1]
            attention_mask = torch.zeros(1, 1, 1, tokens, dtype=hidden_states.dtype, device=hidden_states.device)
            attention_mask[..., -1] = math.log(self.text_length - tokens + 1)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)


def count_padding(transformer: WanTransformer3DModel, text_length: int = WAN_TEXT_LENGTH) -> None:
    """Lets a Wan transformer without tokens of images take texts cut behind their first padding token."""
    for module in transformer.modules():
        if isinstance(module, WanTransformerBlock | WanVACETransformerBlock):
            module.attn2.set_processor(CountedPadding(text_length))
