"""Wan image-to-video (arXiv 2503.20314): clips that begin, and may end, with a given picture.

Wan 2.1 and 2.2 A14B see the pictures as further channels of latents, with a mask of the frames that are given; 2.1 sees
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
from fewstep.teacher.families.wan import WanTeacher
from fewstep.teacher.given import Given, Kept, to_pil, to_pixels
from fewstep.teacher.stock import ComfyUI

FRAMES = (
    "given_latents"  # mask and latents (B, 4 + C, F, h, w) beside z; of 5B the first frame's latents (B, C, 1, h, w)
)
TOKENS = "image_tokens"  # CLIP's (B, L, D), of both pictures one behind the other


class WanImageTeacher(WanTeacher):
    """Adapter for WanImageToVideoPipeline: first frame, first and last frame, with one denoiser or two."""

    other_encoders = ("image_encoder",)
    given_arguments = MappingProxyType({"first": "image", "last": "last_image"})

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._in_place = bool(pipeline.config.get("expand_timesteps"))
        self._sees_tokens = self._config.image_dim is not None
        both = self._config.pos_embed_seq_len is not None  # learned positions of two pictures' tokens
        may_end = both or not (self._in_place or self._sees_tokens)
        self.takes = ("first", "last") if may_end else ("first",)
        self.needs = ("first", "last") if both else ("first",)

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The latents of the pictures in a clip that is grey elsewhere, with the mask of WanImageToVideoPipeline."""
        pictures = [to_pixels(given[name]).to(self.device) for name in self.given]
        if self._in_place:
            return {FRAMES: self.encode(pictures[0])}
        between = size.num_frames - len(pictures)
        grey = pictures[0].new_zeros(count, 3, between, size.height, size.width)
        latents = self.encode(torch.cat([pictures[0], grey, *pictures[1:]], dim=2))
        found = {FRAMES: torch.cat([self._mask(latents, size.num_frames), latents], dim=1)}
        if self._sees_tokens:
            found[TOKENS] = torch.cat([self._tokens(given[name]) for name in self.given], dim=1)
        return found

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
        """CLIP's tokens (B, L, D) of uint8 pictures (B, 3, 1, H, W)."""
        self._part("image_encoder")
        found: Tensor = self.pipeline.encode_image([to_pil(picture, "first") for picture in pictures], self.device)
        return found.float()

    def kept(self, conditions: Conditions, z: Tensor) -> Kept | None:
        """The first frame of 5B."""
        if not self._in_place:
            return None
        first = conditions.shared[FRAMES].to(z)
        mask = torch.zeros(z.shape[2], dtype=torch.bool, device=z.device)
        mask[0] = True
        return Kept(first.expand_as(z), mask.view(1, 1, -1, 1, 1))

    # --- what exports ask

    @property
    def comfyui(self) -> ComfyUI | None:
        """Its workflows of pictures are not described yet."""
        return None

    def _given_inputs(self, z_t: Tensor, times: Tensor, conditions: Conditions) -> Tensors:
        kept = self.kept(conditions, z_t)
        if kept is not None:
            per_frame = self._timesteps(z_t, times).unflatten(1, self._grid(z_t)).clone()
            per_frame[:, 0] = 0  # what is clean is at time 0
            return {"hidden_states": kept.pin(z_t), "timestep": per_frame.flatten(1)}
        found = {"hidden_states": torch.cat([z_t, conditions.shared[FRAMES].to(z_t)], dim=1)}
        if self._sees_tokens:
            tokens = conditions.shared[TOKENS]
            # the denoiser takes the pictures of one clip as so many samples, one behind the other
            found["encoder_hidden_states_image"] = tokens.reshape(len(z_t) * len(self.given), -1, tokens.shape[-1])
        return found
