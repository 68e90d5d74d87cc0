"""Wan's attention over a text whose padding is counted instead of computed."""

from __future__ import annotations

import math
from functools import cache

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
    halves the cost. Half precision would round that logarithm, and the padding's weight by up to 1.5 %: there a few
    stand for all, whose weights add up to the count.
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
            tokens, precision = encoder_hidden_states.shape[1], _precision(hidden_states)
            logarithms = _logarithms(self.text_length - tokens + 1, precision)
            more = encoder_hidden_states[:, -1:].expand(-1, len(logarithms) - 1, -1)
            encoder_hidden_states = torch.cat([encoder_hidden_states, more], dim=1)
            added = [0.0] * (tokens - 1) + list(logarithms)
            attention_mask = torch.tensor(added, dtype=precision, device=hidden_states.device).view(1, 1, 1, -1)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)


def _precision(hidden_states: Tensor) -> torch.dtype:
    """In which attention will compute: that of its input, or of autocast."""
    kind = hidden_states.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # not for meta tensors
    return torch.get_autocast_dtype(kind) if autocast else hidden_states.dtype


@cache
def _logarithms(count: int, precision: torch.dtype) -> tuple[float, ...]:
    """Of weights that add up to `count`, within 1e-5 of it; each a number that this precision has."""
    if precision == torch.float32:
        return (math.log(count),)
    found, rest = list[float](), float(count)
    while rest > 1e-5 * count:
        logarithm = math.log(rest)
        # nearest to a little less, so that the weight is at most what is left
        lower = logarithm - abs(logarithm) * torch.finfo(precision).eps / 2
        found.append(float(torch.tensor(lower, dtype=precision)))
        rest -= math.exp(found[-1])
    return tuple(found)


def count_padding(transformer: WanTransformer3DModel, text_length: int = WAN_TEXT_LENGTH) -> None:
    """Lets a Wan transformer without tokens of images take texts cut behind their first padding token."""
    for module in transformer.modules():
        if isinstance(module, WanTransformerBlock | WanVACETransformerBlock):
            module.attn2.set_processor(CountedPadding(text_length))
