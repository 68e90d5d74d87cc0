"""Wan VACE (arXiv 2503.07598): clips that follow a control video, fill what a mask leaves open, or show a reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from diffusers.models.transformers.transformer_wan_vace import WanVACETransformerBlock
from torch import Tensor, nn

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import Conditions, Tensors
from fewstep.teacher.families.wan import WanTeacher
from fewstep.teacher.given import Given, to_pixels
from fewstep.teacher.stock import Contract

CONTROL_LATENTS = "control"  # (B, 96, F, h, w): latents of what is kept, of what is to change, and the mask


class WanVACETeacher(WanTeacher):
    """Adapter for WanVACEPipeline. Latents of clips with a reference begin with a frame of their own for it."""

    takes = ("reference", "control", "mask")
    given_arguments = MappingProxyType({"reference": "reference_images", "control": "video", "mask": "mask"})
    original_names = None  # diffusers' converter knows them, but only one way
    comfyui = None  # its workflows of controls are not described yet

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        # diffusers counts an autoencoder's levels, and not the patches that some cut pixels into before them
        spatial = pipeline.vae.config.scale_factor_spatial
        if pipeline.vae_scale_factor_spatial != spatial:
            self.stock_settings = MappingProxyType({"vae_scale_factor_spatial": spatial})
            self.set_up(pipeline)

    @property
    def _references(self) -> int:
        """Latent frames in front of the clip's own."""
        return int("reference" in self.given)

    def take(self, names: Sequence[str]) -> None:
        """Raises ValueError for a mask alone as well: WanVACEPipeline takes it with a control video only."""
        super().take(names)
        if "mask" in self.given and "control" not in self.given:
            raise ValueError(
                f"{self.folder} is given mask without control, and a mask says which part of control is kept: give both"
            )

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """As WanVACEPipeline does it, clip by clip: without a control video it is grey, without a mask all changes."""
        controls = []
        for i in range(count):
            # what is not given: grey is 0 in -1..1, and a mask of ones has everything made anew
            shape = (1, 3, *size)
            video = to_pixels(given["control"][i : i + 1]) if "control" in given else torch.zeros(shape)
            mask = given["mask"][i : i + 1].float() / 255 if "mask" in given else torch.ones(shape)
            references = [[to_pixels(given["reference"][i, :, 0]).to(self.device)] if self._references else []]
            video, mask = video.to(self.device), mask.to(self.device)
            self._part("vae")
            # latents of what is kept and of what changes, then the mask's channels (arXiv 2503.07598)
            latents = self.pipeline.prepare_video_latents(video, mask, references, None, self.device)
            masks = self.pipeline.prepare_masks(mask, references, None)
            controls.append(torch.cat([latents, masks.to(latents)], dim=1).float())
        return {CONTROL_LATENTS: torch.cat(controls)}

    def place_given(self, latents: Tensor, conditions: Conditions) -> Tensor:
        """The reference's latents go before those of the clip."""
        reference = conditions.shared[CONTROL_LATENTS][:, : latents.shape[1], : self._references]
        return torch.cat([reference.to(latents), latents], dim=2)

    def decode(self, latents: Tensor) -> Tensor:
        """The clip alone."""
        return super().decode(latents[:, :, self._references :])

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """One frame more with a reference."""
        channels, frames, rows, columns = super().latent_shape(num_frames, height, width)
        return channels, frames + self._references, rows, columns

    @property
    def control_layers(self) -> int:
        """Each block of the control branch has a scale of its own."""
        return len(self._config.vace_layers)

    def call_arguments(self, contract: Contract, given: Given | None = None) -> dict[str, Any]:
        """With the control scale."""
        scale = contract.control_scale
        scale_argument = list(scale) if isinstance(scale, tuple) else scale
        return super().call_arguments(contract, given) | {"conditioning_scale": scale_argument}

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """The control branch's blocks, which run first, then the others."""
        modules = list(network.modules())
        kinds = (WanVACETransformerBlock, WanTransformerBlock)
        return [module for kind in kinds for module in modules if isinstance(module, kind)]

    def _given_inputs(self, z_t: Tensor, times: Tensor, conditions: Conditions) -> Tensors:
        scales = z_t.new_tensor(self.control_scales)
        return {"control_hidden_states": conditions.shared[CONTROL_LATENTS], "control_hidden_states_scale": scales}
