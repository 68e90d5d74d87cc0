"""LTX-Video (arXiv 2501.00103) from texts and from a first frame: a flow model on latents of 32 x 32 x 8 pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import LTXImageToVideoPipeline, LTXPipeline
from torch import Tensor, nn

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.keys import GIVEN_LATENTS, TEXT_MASK
from fewstep.teacher.families.ltx_parts import LTX_NAMES, LTXLatents, to_latents, to_tokens, whole_text
from fewstep.teacher.given import Given, KeptLatents, to_pixels
from fewstep.teacher.schedule import Time
from fewstep.teacher.stock import OriginalNames


class LTXTeacher(LTXLatents):
    """Adapter for LTXPipeline; given a first frame, it is LTXImageToVideoPipeline."""

    takes: tuple[str, ...] = ("first",)
    given_arguments = MappingProxyType({"first": "image"})
    family_fps = 25.0
    text_length = 128  # the pipeline's own default
    padded = frozenset({EMBEDDINGS, TEXT_MASK})

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._per_frame: int = pipeline.vae_temporal_compression_ratio
        self._per_pixel: int = pipeline.vae_spatial_compression_ratio

    @property
    def text_limit(self) -> int:
        """The pipeline's own default."""
        return self.text_length

    def embed(self, prompts: list[str]) -> Tensors:
        """Cut behind the longest prompt: the mask hides padding from the denoiser."""
        embeddings, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.text_limit, device=self.device
        )
        length = max(1, int(mask.sum(dim=1).max()))
        mask = mask[:, :length].to(embeddings.dtype)
        return {EMBEDDINGS: embeddings[:, :length] * mask[..., None], TEXT_MASK: mask}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocity eps - x0."""
        denoiser, dtype = self._denoiser_and_dtype(network)
        kept = self.kept(conditions, z_t)
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu").expand(len(z_t))
        timestep = self.schedule.timestep(times).to(z_t.device, torch.float32)
        if kept is not None:  # what is clean is at time 0
            # a time per token, as the pipeline for images has it
            free = ~kept.mask.expand(1, 1, *z_t.shape[2:])
            timestep = timestep[:, None] * to_tokens(free.float()).squeeze(-1)
        tokens, timestep = self._inputs(to_tokens(z_t if kept is None else kept.pin(z_t)), timestep, conditions)
        output = denoiser(
            tokens.to(dtype),
            conditions.positive[EMBEDDINGS].to(z_t.device, dtype),
            timestep,
            conditions.positive[TEXT_MASK].to(z_t.device, dtype),
            **self._positions(z_t, conditions),
            return_dict=False,
        )[0]
        return self.tokens_to_grid(output, z_t).to(z_t.dtype)

    def _inputs(self, tokens: Tensor, timestep: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Tokens (B, L, C) and times (B,) or (B, L), with further ones before them where something else is given."""
        return tokens, timestep

    def _positions(self, z_t: Tensor, conditions: Conditions) -> dict[str, Any]:
        """The denoiser's arguments about where and when its tokens are: in pixels and seconds."""
        names = zip(("num_frames", "height", "width"), z_t.shape[2:], strict=True)
        scale = (self._per_frame / self.default_fps(), self._per_pixel, self._per_pixel)
        return {**dict(names), "rope_interpolation_scale": scale}

    def take(self, names: Sequence[str]) -> None:
        """A folder of LTXPipeline serves texts; given a first frame, diffusers has another class for the same parts."""
        super().take(names)
        if self.given and type(self.pipeline) is LTXPipeline:
            self.pipeline = LTXImageToVideoPipeline(**self.pipeline.components)

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The latents of the first frame."""
        return {GIVEN_LATENTS: self.encode(to_pixels(given["first"]).to(self.device))} if given else {}

    def kept(self, conditions: Conditions, z: Tensor) -> KeptLatents | None:
        """The first frame, in place, clean and at time 0."""
        return (
            KeptLatents.first_frame(conditions.shared[GIVEN_LATENTS], z) if GIVEN_LATENTS in conditions.shared else None
        )

    def tokens_to_grid(self, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B, L, C) -> (B, C, F, h, w), without tokens before those of the clip."""
        grid = z_t.shape[2:]
        return to_latents(tokens[:, -grid.numel() :], grid)

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode, normalised per channel."""
        return self.encode_video(video)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`; of newer autoencoders at their decode time, with the same noise for every clip."""
        vae = self._part("vae")
        noisy = self.noised(self.denormalised(latents))
        return vae.decode(noisy.to(vae.dtype), self.decode_time(latents), return_dict=False)[0].float()

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 8 k + 1, height and width multiples of 32."""
        return self.video_shape(num_frames, height, width)

    # --- what its folders may hold

    agreeing = (
        ("vae.latent_channels", "transformer.in_channels"),
        ("vae.latent_channels", "transformer.out_channels"),
        ("text_encoder.d_model", "transformer.caption_channels"),
    )

    # --- what exports ask

    original_names: OriginalNames | None = LTX_NAMES

    def fixed_lengths(self, conditions: Conditions) -> Conditions:
        """The texts with all the padding that the pipeline has."""
        positive, negative = (
            None if branch is None else whole_text(branch, self.text_limit)
            for branch in (conditions.positive, conditions.negative)
        )
        return replace(conditions, positive=positive or {}, negative=negative)

    def to_pipeline(self, z: Tensor) -> Tensor:
        """(B, L, C)."""
        return to_tokens(z)

    def from_pipeline(self, latents: Tensor, shape: Sequence[int]) -> Tensor:
        """The same back."""
        return to_latents(latents, shape[2:])

    def noise_arguments(self, z: Tensor, contract: Any, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """With the first frame in place: the pipeline for images looks at none where it is handed latents, and else
        draws the frame's latents at random from its posterior."""
        if given:
            z = torch.cat([self.encode(to_pixels(given["first"]).to(z.device)), z[:, :, 1:]], dim=2)
        return super().noise_arguments(z, contract)


class LTXImageTeacher(LTXTeacher):
    """Adapter for LTXImageToVideoPipeline."""

    needs = ("first",)
