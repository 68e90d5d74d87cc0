"""Wan 2.1 and 2.2 text-to-video (arXiv 2503.20314): flow models with one or two denoisers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from torch import Tensor, nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions, cut_padding
from fewstep.teacher.experts import Experts, parts_of
from fewstep.teacher.families.limits import check_frames, check_sides
from fewstep.teacher.families.wan_attention import TEXT_LENGTH, count_padding
from fewstep.teacher.schedule import Time


class WanTeacher(Teacher):
    """Adapter for WanPipeline: Wan 2.1, Wan 2.2 with two experts, Wan 2.2 5B with a timestep per token."""

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._denoiser = _denoiser(pipeline, folder)
        self._transformer: Any = pipeline.transformer  # of experts both have its architecture
        self._config = self._transformer.config
        self.family_fps = 24.0 if pipeline.config.expand_timesteps else 16.0  # the former: Wan 2.2 5B
        # image models split their text at a fixed length, so it must stay whole there
        self._cut = self._config.added_kv_proj_dim is None
        if self._cut:
            for transformer in parts_of(self._denoiser).values():
                count_padding(transformer)

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
        network = network or self._denoiser
        if isinstance(network, Experts):
            return self.ask_experts(network, z_t, t, conditions)
        times = torch.as_tensor(t, dtype=torch.float64, device="cpu").expand(len(z_t))
        return self._forward(network, z_t, times, conditions.positive)

    def _forward(self, network: Any, z_t: Tensor, times: Tensor, text: Tensor) -> Tensor:
        timestep = self.schedule.timestep(times).to(z_t.device, torch.float32)
        if self.pipeline.config.expand_timesteps:
            timestep = timestep[:, None].expand(-1, self._grid(z_t).numel())
        first = (network if hasattr(network, "patch_embedding") else self._transformer).patch_embedding
        dtype = first.weight.dtype  # diffusers' own .dtype walks through all modules, at every evaluation
        return network(z_t.to(dtype), timestep, text.to(z_t.device, dtype), return_dict=False)[0].to(z_t.dtype)

    @property
    def denoiser(self) -> nn.Module:
        """The transformer, or two of them as experts."""
        return self._denoiser

    def index_without(self, index: Mapping[str, Any], components: Sequence[str]) -> dict[str, Any]:
        """With a boundary only where there are two transformers."""
        found = super().index_without(index, components)
        return found | {"boundary_ratio": None} if components else found

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


def _denoiser(pipeline: Any, folder: Path) -> nn.Module:
    """As WanPipeline asks: `transformer` at timesteps from boundary_ratio on, `transformer_2` below, if there is one.

    Raises ValueError for two transformers without a boundary, and for a boundary without a second one.
    """
    first, second, boundary = pipeline.transformer, pipeline.transformer_2, pipeline.config.boundary_ratio
    index = folder / "model_index.json"
    if first is None:
        raise ValueError(f"{index} names no transformer, which is asked first: name it, alone or before transformer_2")
    if boundary is None:
        if second is not None:
            raise ValueError(
                f"{index} names transformer_2 but no boundary_ratio below which it is asked: set boundary_ratio, as "
                "0.875 in Wan 2.2 A14B's text-to-video and 0.9 in its image-to-video, or leave transformer_2 out"
            )
        found: nn.Module = first
        return found
    if second is None:
        raise ValueError(
            f"{index} has boundary_ratio {boundary:g}, below which transformer_2 is asked, but names none: add "
            "transformer_2, or set boundary_ratio to null"
        )
    try:
        return Experts(first, second, boundary)
    except ValueError as error:
        raise ValueError(f"{index}: {error}") from error
