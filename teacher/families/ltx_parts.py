"""What the LTX families share: tokens of latents, normalised latents, decoding at a time, nodes, names in files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lcm
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Tensors
from fewstep.teacher.families.keys import TEXT_MASK
from fewstep.teacher.families.limits import check_frames, check_sides
from fewstep.teacher.families.passed_sigmas import PassedSigmas
from fewstep.teacher.families.transformer import TransformerTeacher
from fewstep.teacher.schedulers import shift_of_tokens
from fewstep.teacher.stock import Contract, OriginalNames, StockScheduler

DECODE_TIME, DECODE_NOISE = 0.05, 0.025  # for autoencoders that take a time: Lightricks' own model cards
_SIDE = 32  # the pipelines refuse heights and widths that it does not divide, whatever the autoencoder's factor


class LTXLatents(PassedSigmas, TransformerTeacher):
    """Latents, schedule and stock sampler of the LTX pipelines, whose denoisers take tokens (B, L, C)."""

    fed_fps = True

    def shift_for(self, size: VideoSize) -> float | None:
        """By the number of the clip's tokens."""
        _, *grid = self.video_shape(*size)
        return shift_of_tokens(self.pipeline.scheduler, grid[0] * grid[1] * grid[2])

    def encode_video(self, video: Tensor) -> Tensor:
        """The posterior's mode, normalised per channel."""
        vae = self._part("vae")
        return self.normalised(vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float())

    def normalised(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents (B, C, F, h, w) per channel."""
        mean, std = self._latent_statistics(latents)
        return (latents - mean) * self._part("vae").config.scaling_factor / std

    def denormalised(self, latents: Tensor) -> Tensor:
        """The inverse of `normalised`."""
        mean, std = self._latent_statistics(latents)
        return latents * std / self._part("vae").config.scaling_factor + mean

    def decode_time(self, latents: Tensor) -> Tensor | None:
        """(B,), for autoencoders that take one."""
        vae = self._part("vae")
        if not vae.config.timestep_conditioning:
            return None
        return torch.full((len(latents),), DECODE_TIME, device=latents.device, dtype=vae.dtype)

    def noised(self, latents: Tensor) -> Tensor:
        """With the noise that autoencoders with a decode time expect, the same for every clip."""
        if not self._part("vae").config.timestep_conditioning:
            return latents
        return torch.lerp(latents, self.noise([0] * len(latents), latents.shape[1:]).to(latents), DECODE_NOISE)

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        vae = self._part("vae")
        mean, std = (x.to(latents.device, torch.float32) for x in (vae.latents_mean, vae.latents_std))
        return mean.view(-1, 1, 1, 1), std.view(-1, 1, 1, 1)

    def video_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, F, h, w) of a clip. Raises ValueError unless frames are 8 k + 1 and sides multiples of 32."""
        per_frame, per_pixel = (
            self.pipeline.vae_temporal_compression_ratio,
            self.pipeline.vae_spatial_compression_ratio,
        )
        check_frames(num_frames, per_frame)
        check_sides(height, width, (lcm(_SIDE, per_pixel),) * 2)
        frames = (num_frames - 1) // per_frame + 1
        return self.pipeline.transformer.config.in_channels, frames, height // per_pixel, width // per_pixel

    schedules = (("flow", "flow"),)

    # --- what exports ask

    def stock_scheduler(self, contract: Contract) -> StockScheduler:
        """The pipeline's own, with the contract's shift and no stretching of its nodes; others take no `mu`."""
        settings = {"shift": contract.shift, "use_dynamic_shifting": False, "shift_terminal": None}
        return StockScheduler("FlowMatchEulerDiscreteScheduler", settings, from_config=True)

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """With the rate, which positions follow, and the decoder's time where it takes one."""
        arguments = super().call_arguments(contract, given) | {"frame_rate": self.default_fps()}
        vae = self.pipeline.vae
        if vae is not None and vae.config.timestep_conditioning:
            arguments |= {"decode_timestep": DECODE_TIME, "decode_noise_scale": DECODE_NOISE}
        return arguments


def to_tokens(z: Tensor) -> Tensor:
    """(B, C, F, h, w) -> (B, F h w, C)."""
    return z.flatten(2).transpose(1, 2)


def to_latents(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """(B, F h w, C) -> (B, C, F, h, w); grid: (F, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))


def whole_text(branch: Tensors, length: int) -> Tensors:
    """A branch with its text and mask padded to `length` tokens."""
    text, mask = branch[EMBEDDINGS], branch[TEXT_MASK]
    missing = length - text.shape[1]
    return {
        **branch,
        EMBEDDINGS: functional.pad(text, (0, 0, 0, missing)),
        TEXT_MASK: functional.pad(mask, (0, missing)),
    }


_RENAMES = (("time_embed", "adaln_single"), ("proj_in", "patchify_proj"), ("norm_q", "q_norm"), ("norm_k", "k_norm"))


def _to_original(name: str) -> str:
    for ours, theirs in _RENAMES:
        name = name.replace(ours, theirs)
    return name


def _to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    from diffusers.loaders.single_file_utils import convert_ltx_transformer_checkpoint_to_diffusers

    return dict(convert_ltx_transformer_checkpoint_to_diffusers(dict(state)))


LTX_NAMES = OriginalNames(_to_original, _to_diffusers)
