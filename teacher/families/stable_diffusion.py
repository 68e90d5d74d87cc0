"""Stable Diffusion (arXiv 2112.10752) and SDXL (arXiv 2307.01952): images, as clips of one frame.

Both predict eps on a schedule that ends short of pure noise: SDXL-Lightning's world (arXiv 2402.13929).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.keys import POOLED_TEXT
from fewstep.teacher.families.limits import check_sides
from fewstep.teacher.families.unet import UNetTeacher
from fewstep.teacher.given import Given
from fewstep.teacher.pipelines.index import config_number
from fewstep.teacher.schedule import Time
from fewstep.teacher.stock import Contract, OriginalNames


def _same(name: str) -> str:
    return name


class StableDiffusionTeacher(UNetTeacher):
    """Adapter for StableDiffusionPipeline: latents are (B, C, 1, h, w) outside, and (B, C, h, w) inside `predict`."""

    unloaded: tuple[str, ...] = ("safety_checker", "feature_extractor")  # they look at finished images

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._per_pixel: int = pipeline.vae_scale_factor
        if side := (self._unet.config.sample_size or 0) * self._per_pixel:
            self.family_size = VideoSize(1, side, side)

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The noise, or what else the scheduler says. Schedules end short of pure noise: feed that at t = 1."""
        denoiser, dtype = self._denoiser_and_dtype(network)
        text = conditions.positive[EMBEDDINGS].to(z_t.device, dtype)
        others = self._inputs(z_t, conditions, dtype)
        output = denoiser(z_t.squeeze(2).to(dtype), self._timesteps(z_t, t), text, return_dict=False, **others)[0]
        return output.unsqueeze(2).to(z_t.dtype)

    def _inputs(self, z_t: Tensor, conditions: Conditions, dtype: torch.dtype) -> dict[str, Any]:
        """What else the UNet takes."""
        return {}

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """One frame, of sides that the pipeline allows."""
        if num_frames != 1:
            raise ValueError(
                f"{num_frames} frames cannot be made: a {type(self.pipeline).__name__} makes images, so use 1"
            )
        side = lcm(8, self._per_pixel)
        check_sides(height, width, (side, side))
        return self._unet.config.in_channels, 1, height // self._per_pixel, width // self._per_pixel

    # --- what its folders may hold

    agreeing: tuple[tuple[str, str], ...] = (
        ("vae.latent_channels", "unet.in_channels"),  # not of UNets that fill masks in
        ("text_encoder.hidden_size", "unet.cross_attention_dim"),
    )

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """Refuses UNets that take their guidance as an input, too: these are students already."""
        super().check_folder(folder, index)
        if config_number(folder, "unet.time_cond_proj_dim") is not None:
            raise ValueError(
                f"{folder} has a UNet that takes its guidance as an input (time_cond_proj_dim), such as an LCM's, "
                "which is a few-step student already: use the model that it was distilled from"
            )

    # --- what exports ask

    makes_pictures = True
    original_names = OriginalNames(_same, dict)  # UNets are shared, and read by ComfyUI, under diffusers' names

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """Without frames, which the pipeline does not know."""
        return {n: value for n, value in super().call_arguments(contract, given).items() if n != "num_frames"}

    def to_pipeline(self, z: Tensor) -> Tensor:
        """(B, C, h, w)."""
        return z.squeeze(2)

    def from_pipeline(self, latents: Tensor, shape: Sequence[int]) -> Tensor:
        """The same back."""
        return latents.unsqueeze(2)


class StableDiffusionXLTeacher(StableDiffusionTeacher):
    """Adapter for StableDiffusionXLPipeline: two CLIPs, the second's pooled vector, and the image's size."""

    other_encoders = ("text_encoder_2",)
    unloaded = ()
    agreeing = (("vae.latent_channels", "unet.in_channels"),)  # texts are as wide as both encoders together

    def embed(self, prompts: list[str]) -> Tensors:
        """The last layer but one of both CLIPs side by side, with all padding, and the pooled vector of the second."""
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        return {EMBEDDINGS: embeddings, POOLED_TEXT: pooled}

    def embed_negative(self, prompt: str, given: Given) -> Tensors:
        """No prompt is all zeros where the pipeline has force_zeros_for_empty_prompt, as SDXL's own has."""
        embeddings = super().embed_negative(prompt, given)
        if prompt or not self.pipeline.config.force_zeros_for_empty_prompt:
            return embeddings
        return {name: torch.zeros_like(tensor) for name, tensor in embeddings.items()}

    def _inputs(self, z_t: Tensor, conditions: Conditions, dtype: torch.dtype) -> dict[str, Any]:
        """The pooled vector; the size of the original and of the target, which is the image's own, and no crop."""
        height, width = (side * self._per_pixel for side in z_t.shape[-2:])
        ids = torch.tensor([height, width, 0, 0, height, width], device=z_t.device, dtype=dtype)
        pooled = conditions.positive[POOLED_TEXT].to(z_t.device, dtype)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids.expand(len(z_t), -1)}}

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """Refuses what lacks the first text encoder, such as the refiner."""
        super().check_folder(folder, index)
        if not all(any(index.get(name) or [None]) for name in ("text_encoder", "text_encoder_2")):
            raise ValueError(
                f"{folder} names one text encoder, and SDXL's base model has two: use that, not its refiner"
            )
        widths = [config_number(folder, f"{name}.hidden_size") for name in ("text_encoder", "text_encoder_2")]
        taken = config_number(folder, "unet.cross_attention_dim")
        # SDXL's UNet attends to both encoders side by side, as wide as both together
        if None not in (*widths, taken) and sum(width or 0 for width in widths) != taken:
            raise ValueError(
                f"the parts in {folder} are of different models: the text encoders' hidden_size are {widths[0]} and "
                f"{widths[1]}, unet.cross_attention_dim is {taken}, and it must be their sum; download it again"
            )
