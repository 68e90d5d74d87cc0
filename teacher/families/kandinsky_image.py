"""Kandinsky 5 image-to-video: clips that begin with an image."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import Conditions, Tensors
from fewstep.teacher.families.kandinsky import KandinskyTeacher
from fewstep.teacher.families.keys import GIVEN_LATENTS
from fewstep.teacher.given import Given, KeptLatents, to_pixels


class KandinskyImageTeacher(KandinskyTeacher):
    """Adapter for Kandinsky5I2VPipeline: the first frame is in place, clean. It is at the time of the others.

    The pipeline moves the mean and the spread of what it made first, `resolved` frames of latents with the given one
    among them, towards those behind: `decode` does the same, so that clips look as they do there.
    """

    takes = needs = ("first",)
    given_arguments = MappingProxyType({"first": "image"})
    resolved = 4

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The latents of the first frame."""
        return {GIVEN_LATENTS: self.encode(to_pixels(given["first"]).to(self.device))}

    def kept(self, conditions: Conditions, z: Tensor) -> KeptLatents | None:
        """The first frame."""
        return (
            KeptLatents.first_frame(conditions.shared[GIVEN_LATENTS], z) if GIVEN_LATENTS in conditions.shared else None
        )

    def decode(self, latents: Tensor) -> Tensor:
        """As the pipeline shows them: see above."""
        return super().decode(self.given_out(latents))

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """With frames behind the first ones, to which the pipeline compares them; with none it gives no numbers."""
        shape = super().latent_shape(num_frames, height, width)
        if shape[1] <= self.resolved:
            least = self.resolved * self.pipeline.vae_scale_factor_temporal + 1
            raise ValueError(f"{num_frames} frames cannot be made from an image: use {least} or more")
        return shape

    # --- what exports ask

    def noise_arguments(self, z: Tensor, contract: Any, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """With the first frame in place: handed latents, the pipeline looks at no image, and else draws the frame's
        latents at random from its posterior."""
        assert given is not None  # the image is needed
        frame = self.encode(to_pixels(given["first"]).to(z.device))
        return {"latents": self.with_pictures(z, KeptLatents.first_frame(frame, z))}

    def given_out(self, latents: Tensor) -> Tensor:
        """With the first frames as the call leaves them."""
        resolved = [self.pipeline.normalize_first_frame(clip.movedim(1, -1)) for clip in latents.split(1)]
        return torch.cat(resolved).movedim(-1, 1)
