"""CogVideoX of a first frame, 1.0 and 1.5, and CogVideoX-Fun of a control video: more latents next to the noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import Tensors
from fewstep.teacher.families.cogvideox import BESIDE, CogVideoXTeacher
from fewstep.teacher.families.picture_noise import generator_of
from fewstep.teacher.given import Given, to_pixels
from fewstep.teacher.pipelines.index import config_number
from fewstep.teacher.stock import Contract


class CogVideoXImageTeacher(CogVideoXTeacher):
    """Adapter for CogVideoXImageToVideoPipeline: the first frame's latent stands next to the first latent frame of the
    noise, in 1.5 the one that is not decoded, and zeros next to the others.

    The pipeline draws that latent from the autoencoder's posterior; here each image has a draw of its own.
    """

    channels = 2
    takes = needs = ("first",)
    given_arguments = MappingProxyType({"first": "image"})

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """One draw of each first frame's posterior, scaled as the autoencoder's config says."""
        vae = self._part("vae")
        scale = 1 / vae.config.scaling_factor if vae.config.invert_scale_latents else vae.config.scaling_factor
        pixels = to_pixels(given["first"]).to(vae.device, vae.dtype)
        drawn = [
            vae.encode(clip[None]).latent_dist.sample(generator_of(picture))
            for clip, picture in zip(pixels, given["first"], strict=True)
        ]
        return {BESIDE: torch.cat(drawn).float() * scale}

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """With the generator of the image's draw."""
        arguments = super().call_arguments(contract, given)
        return arguments | ({"generator": generator_of(given["first"][0])} if given else {})


class CogVideoXControlTeacher(CogVideoXTeacher):
    """Adapter for CogVideoXFunControlPipeline: the latents of a control video stand next to the noise."""

    channels = 2
    takes = needs = ("control",)
    given_arguments = MappingProxyType({"control": "control_video"})

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """As every family, and that its denoiser is one of 1.0."""
        super().check_folder(folder, index)
        if config_number(folder, "transformer.patch_size_t"):
            raise ValueError(
                f"the denoiser in {folder} sees latent frames in groups (patch_size_t), as that of CogVideoX 1.5, and "
                f"{index.get('_class_name')} then makes other numbers of frames than its control video has: use one of "
                "1.0 or 1.1"
            )

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The posterior's mode of each control video, scaled."""
        return {BESIDE: self.encode(to_pixels(given["control"]))}

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Without a number of frames, which the pipeline counts in the control video."""
        arguments = super().call_arguments(contract, given)
        del arguments["num_frames"]
        return arguments
