"""HunyuanVideo text-to-video (arXiv 2412.03603): a flow model that takes its guidance as an input.

Its prompts are read by Llama, within a template, token by token with a mask, and by CLIP as one vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_hunyuan_video import (
    HunyuanVideoSingleTransformerBlock,
    HunyuanVideoTokenReplaceSingleTransformerBlock,
    HunyuanVideoTokenReplaceTransformerBlock,
    HunyuanVideoTransformerBlock,
)
from torch import Tensor, nn

from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.keys import POOLED_TEXT, TEXT_MASK
from fewstep.teacher.families.limits import latent_grid
from fewstep.teacher.families.passed_sigmas import PassedSigmas
from fewstep.teacher.families.transformer import ScaledLatents, TransformerTeacher
from fewstep.teacher.given import Given
from fewstep.teacher.schedule import Time
from fewstep.teacher.stock import Contract


class HunyuanVideoTeacher(PassedSigmas, ScaledLatents, TransformerTeacher):
    """Adapter for HunyuanVideoPipeline."""

    family_fps = 24.0
    other_encoders = ("text_encoder_2",)
    padded = frozenset({EMBEDDINGS, TEXT_MASK})
    usual_embedded_guidance = 6.0  # HunyuanVideoPipeline's own, embedded

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        if self._config.guidance_embeds:
            self.embedded_guidance = self.usual_embedded_guidance

    @property
    def text_limit(self) -> int:
        """Llama's 256 tokens behind the template's beginning, and the one it begins with. CLIP reads 77 of its own."""
        return 257

    def embed(self, prompts: list[str]) -> Tensors:
        """With all padding, which the mask leaves out."""
        self._part("text_encoder_2")
        embeddings, pooled, mask = self.pipeline.encode_prompt(prompts, device=self.device)
        return {EMBEDDINGS: embeddings, TEXT_MASK: mask, POOLED_TEXT: pooled}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocity eps - x0."""
        denoiser, dtype = self._denoiser_and_dtype(network)
        # Llama's tokens with the mask of their padding, and CLIP's one vector
        seen = conditions.positive
        inputs = {"hidden_states": self._input(z_t, conditions), "encoder_hidden_states": seen[EMBEDDINGS]}
        inputs |= {"encoder_attention_mask": seen[TEXT_MASK], "pooled_projections": seen[POOLED_TEXT]}
        output: Tensor = denoiser(
            timestep=self.schedule.timestep(t).expand(len(z_t)).to(z_t.device, torch.float32),
            guidance=self._embedded_guidance(z_t, dtype),
            return_dict=False,
            **{name: tensor.to(z_t.device, dtype) for name, tensor in inputs.items()},
        )[0]
        return output.to(z_t.dtype)

    def _input(self, z_t: Tensor, conditions: Conditions) -> Tensor:
        """What the denoiser takes as latents."""
        return z_t

    def _embedded_guidance(self, z_t: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The guidance (B,), in thousandths, rounded as the pipeline rounds it."""
        if self.embedded_guidance is None:
            return None
        return torch.full((len(z_t),), self.embedded_guidance, dtype=dtype, device=z_t.device) * 1000.0

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 4 k + 1; height and width whole patches, and multiples of 16, as the pipeline asks."""
        per_frame, per_pixel = self.pipeline.vae_scale_factor_temporal, self.pipeline.vae_scale_factor_spatial
        side = max(16, per_pixel * self._config.patch_size)
        return self._config.out_channels, *latent_grid(num_frames, height, width, per_frame, per_pixel, (side, side))

    # --- what its folders may hold

    schedules = (("flow", "flow"),)
    block_classes = (  # diffusers counts the patches' and the texts' embedders, too
        HunyuanVideoTransformerBlock,
        HunyuanVideoSingleTransformerBlock,
        HunyuanVideoTokenReplaceTransformerBlock,
        HunyuanVideoTokenReplaceSingleTransformerBlock,
    )
    agreeing = (
        ("vae.latent_channels", "transformer.out_channels"),
        ("text_encoder.hidden_size", "transformer.text_embed_dim"),
        ("text_encoder_2.hidden_size", "transformer.pooled_projection_dim"),
    )

    # --- what exports ask

    def call_arguments(self, contract: Contract, given: Given | None = None) -> dict[str, Any]:
        """`guidance_scale` is the embedded one, and `true_cfg_scale` stays 1."""
        arguments = super().call_arguments(contract, given)
        return arguments | {"guidance_scale": 1.0 if self.embedded_guidance is None else self.embedded_guidance}
