"""Wan 2.1 and 2.2 text-to-video (arXiv 2503.20314): flow models with one or two denoisers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor, nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions, cut_padding
from fewstep.teacher.families.limits import check_frames, check_positions, check_sides
from fewstep.teacher.families.wan_attention import TEXT_LENGTH, count_padding
from fewstep.teacher.pipeline_index import index_path
from fewstep.teacher.schedule import Time


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
        grid = ((num_frames - 1) // per_frame + 1, height // per_pixel, width // per_pixel)
        patches = [side // patch for side, patch in zip(grid, self._config.patch_size, strict=True)]
        check_positions(patches, self._config.rope_max_seq_len)
        return self._config.in_channels, *grid

    def _grid(self, z_t: Tensor) -> torch.Size:
        return torch.Size(n // p for n, p in zip(z_t.shape[2:], self._config.patch_size, strict=True))

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        config = self._part("vae").config
        mean, std = (torch.tensor(x, device=latents.device) for x in (config.latents_mean, config.latents_std))
        return mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)

    # --- what its folders may hold

    schedules = (("flow", "flow"),)
    block_classes = (WanTransformerBlock,)
    agreeing = (
        ("vae.z_dim", "transformer.out_channels"),
        ("vae.z_dim", "transformer_2.out_channels"),
        ("text_encoder.d_model", "transformer.text_dim"),
        ("text_encoder.d_model", "transformer_2.text_dim"),
    )

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """With `boundary_ratio` both experts must be there, and without it there is no second one."""
        super().check_folder(folder, index)
        boundary, path = index.get("boundary_ratio"), index_path(folder)
        first, second = (any(index.get(name) or ()) for name in ("transformer", "transformer_2"))
        number = isinstance(boundary, int | float) and not isinstance(boundary, bool)
        if boundary is not None and not (number and 0 <= boundary <= 1):
            raise ValueError(
                f"{path} has boundary_ratio {boundary!r}: it is the time from which transformer is in charge, a number "
                "from 0 to 1, or null for one denoiser"
            )
        if second and boundary is None:
            raise ValueError(
                f"{path} names a transformer_2, but no boundary_ratio, so nothing says below which time it is in "
                "charge: restore it, such as 0.875 of Wan 2.2 A14B, or name no transformer_2"
            )
        if boundary and not (first and second):
            missing = "transformer_2" if first else "transformer"
            raise ValueError(
                f"{path} has boundary_ratio {boundary:g}, so that two experts share the times, but names no {missing}: "
                "download it again, or set boundary_ratio to null if the model has one denoiser"
            )
