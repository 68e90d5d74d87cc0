"""Wan 2.1 and 2.2 text-to-video (arXiv 2503.20314): flow models with one or two denoisers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor, nn
from torch.nn import functional

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions, cut_padding
from fewstep.teacher.families.limits import check_frames, check_sides
from fewstep.teacher.families.wan_attention import TEXT_LENGTH, count_padding
from fewstep.teacher.families.wan_files import COMFYUI, COMFYUI_5B, NAMES
from fewstep.teacher.schedule import Time
from fewstep.teacher.stock import ComfyUI, OriginalNames


class WanTeacher(Teacher):
    """Adapter for WanPipeline: Wan 2.1, Wan 2.2 with two experts, Wan 2.2 5B with a timestep per token."""

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._high: Any = pipeline.transformer or pipeline.transformer_2
        self._low: Any = pipeline.transformer_2 or pipeline.transformer
        self._boundary = pipeline.config.boundary_ratio or 0.0  # `_low` is in charge below this time
        self._config = self._high.config
        self.family_fps = 24.0 if pipeline.config.expand_timesteps else 16.0  # the former: Wan 2.2 5B
        # image models split their text at a fixed length, so it must stay whole there
        self._cut = self._config.added_kv_proj_dim is None
        if self._cut:
            count_padding(self._high)
            count_padding(self._low)

    @property
    def text_limit(self) -> int:
        """WanPipeline's own default."""
        return TEXT_LENGTH

    def cleaned(self, prompt: str) -> str:
        """With entities such as &amp; resolved, and single blanks."""
        return str(prompt_clean(prompt))

    def embed(self, prompts: list[str]) -> Tensor:
        """Cut behind the longest prompt."""
        embeddings: Tensor = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=self.text_limit, device=self.device
        )[0]
        return cut_padding(embeddings) if self._cut else embeddings

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocity eps - x0."""
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu").expand(len(z_t))
        high = times >= self._boundary
        if network is None and high.any() and not high.all():  # each expert gets its part of the batch
            found = torch.empty_like(z_t)
            for part in (high, ~high):
                found[part] = self.predict(z_t[part], times[part], conditions[part])
            return found
        return self._forward(network or self.network_at(times), z_t, times, conditions.positive)

    def _forward(self, network: Any, z_t: Tensor, times: Tensor, text: Tensor) -> Tensor:
        timestep = self.schedule.timestep(times).to(z_t.device, torch.float32)
        if self.pipeline.config.expand_timesteps:
            timestep = timestep[:, None].expand(-1, self._grid(z_t).numel())
        first = (network if hasattr(network, "patch_embedding") else self._high).patch_embedding
        dtype = first.weight.dtype  # diffusers' own .dtype walks through all modules, at every evaluation
        return network(z_t.to(dtype), timestep, text.to(z_t.device, dtype), return_dict=False)[0].to(z_t.dtype)

    def network_at(self, t: Time) -> nn.Module:
        """The expert in charge at t, which must be the same for the whole batch."""
        high = torch.as_tensor(t, dtype=torch.float64) >= self._boundary
        if bool(high.any()) and not bool(high.all()):
            raise ValueError(
                f"times on both sides of {self._boundary} belong to two experts: ask for one side at a time"
            )
        return self._high if bool(high.all()) else self._low

    def tokens_to_grid(self, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B, L, C) -> (B, C, F', h', w')."""
        return tokens.unflatten(1, self._grid(z_t)).movedim(-1, 1)

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode, normalised per channel."""
        vae = self._part("vae")
        latents = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
        mean, std = self._latent_statistics(latents)
        return (latents - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        vae = self._part("vae")
        mean, std = self._latent_statistics(latents)
        return vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0].float()

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 4 k + 1; height and width whole patches of the autoencoder and the denoiser."""
        per_frame, per_pixel = self.pipeline.vae_scale_factor_temporal, self.pipeline.vae_scale_factor_spatial
        check_frames(num_frames, per_frame)
        _, patch_height, patch_width = self._config.patch_size
        check_sides(height, width, (per_pixel * patch_height, per_pixel * patch_width))
        frames = (num_frames - 1) // per_frame + 1
        return self._config.in_channels, frames, height // per_pixel, width // per_pixel

    def _grid(self, z_t: Tensor) -> torch.Size:
        return torch.Size(n // p for n, p in zip(z_t.shape[2:], self._config.patch_size, strict=True))

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        config = self._part("vae").config
        mean, std = (torch.tensor(x, device=latents.device) for x in (config.latents_mean, config.latents_std))
        return mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)

    # --- what exports ask

    def fixed_lengths(self, conditions: Conditions) -> Conditions:
        """The texts with the zeros behind them that `embed` cut off."""

        def whole(text: Tensor) -> Tensor:
            return functional.pad(text, (0, 0, 0, TEXT_LENGTH - text.shape[1]))

        negative = conditions.negative
        return replace(
            conditions, positive=whole(conditions.positive), negative=None if negative is None else whole(negative)
        )

    @property
    def original_names(self) -> OriginalNames | None:
        """Those of Wan's own code."""
        return NAMES

    @property
    def comfyui(self) -> ComfyUI | None:
        """Its nodes for text-to-video."""
        return COMFYUI_5B if self.pipeline.config.expand_timesteps else COMFYUI
