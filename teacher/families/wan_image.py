"""Wan image-to-video (arXiv 2503.20314): clips that begin, and may end, with a given image.

Wan 2.1 and 2.2 A14B see the images as further channels of latents, with a mask of the frames that are given; 2.1 sees
CLIP's tokens of them as well. Wan 2.2 5B has the first frame in place, clean and at time 0.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import Conditions, Tensors
from fewstep.teacher.families.keys import GIVEN_LATENTS
from fewstep.teacher.families.wan import WanTeacher
from fewstep.teacher.given import Given, to_pil, to_pixels

# FRAMES are a mask and latents (B, 4 + C, F, h, w) here, but of 5B
IMAGE_TOKENS = "image_tokens"  # CLIP's (B, L, D), of both images one behind the other


class WanImageTeacher(WanTeacher):
    """Adapter for WanImageToVideoPipeline: first frame, first and last frame, with one denoiser or two."""

    other_encoders = ("image_encoder",)
    given_arguments = MappingProxyType({"first": "image", "last": "last_image"})

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._sees_tokens = self._config.image_dim is not None
        both = self._config.pos_embed_seq_len is not None  # learned positions of two images' tokens
        if both:
            self.original_names = None  # diffusers' converter does not know the authors' name of these positions
        may_end = both or not (self._in_place or self._sees_tokens)
        self.takes = ("first", "last") if may_end else ("first",)
        self.needs = ("first", "last") if both else ("first",)

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The latents of the images in a clip that is grey elsewhere, with the mask of WanImageToVideoPipeline."""
        if self._in_place:
            return super().encode_given(given, size, count)
        pictures = [to_pixels(given[name]).to(self.device) for name in self.given]
        between = size.num_frames - len(pictures)
        grey = pictures[0].new_zeros(count, 3, between, size.height, size.width)
        latents = self.encode(torch.cat([pictures[0], grey, *pictures[1:]], dim=2))
        encoded = {GIVEN_LATENTS: torch.cat([self._mask(latents, size.num_frames), latents], dim=1)}
        if self._sees_tokens:
            encoded[IMAGE_TOKENS] = torch.cat([self._tokens(given[name]) for name in self.given], dim=1)
        return encoded

    def _mask(self, latents: Tensor, num_frames: int) -> Tensor:
        """(B, 4, F, h, w): which frames behind each latent one are given; the first latent one stands for one alone."""
        per_latent = self.pipeline.vae_scale_factor_temporal
        frames = torch.zeros(num_frames, device=latents.device)
        frames[0] = 1
        if "last" in self.given:
            frames[-1] = 1
        shown = torch.cat([frames[:1].expand(per_latent), frames[1:]]).view(-1, per_latent).T
        return shown[None, :, :, None, None].expand(len(latents), -1, -1, *latents.shape[3:])

    def _tokens(self, pictures: Tensor) -> Tensor:
        """CLIP's tokens (B, L, D) of uint8 images (B, 3, 1, H, W)."""
        self._part("image_encoder")
        tokens: Tensor = self.pipeline.encode_image([to_pil(picture, "first") for picture in pictures], self.device)
        return tokens.float()

    def _given_inputs(self, z_t: Tensor, times: Tensor, conditions: Conditions) -> Tensors:
        if self._in_place:
            return super()._given_inputs(z_t, times, conditions)
        inputs = {"hidden_states": torch.cat([z_t, conditions.shared[GIVEN_LATENTS].to(z_t)], dim=1)}
        if self._sees_tokens:
            tokens = conditions.shared[IMAGE_TOKENS]
            # the denoiser takes the images of one clip as separate samples, one after the other
            inputs["encoder_hidden_states_image"] = tokens.reshape(len(z_t) * len(self.given), -1, tokens.shape[-1])
        return inputs
