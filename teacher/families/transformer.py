"""What adapters of pipelines with one transformer share."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fewstep.teacher.base import Teacher


class TransformerTeacher(Teacher):
    """The half of an adapter that follows from a transformer over patches."""

    @property
    def _transformer(self) -> Any:
        return self.pipeline.transformer

    @property
    def _config(self) -> Any:
        return self._transformer.config

    @property
    def denoiser(self) -> nn.Module:
        """The transformer."""
        transformer: nn.Module = self._transformer
        return transformer

    def _denoiser_and_dtype(self, network: nn.Module | None) -> tuple[Any, Any]:
        """The network and the dtype that it computes in; a student may be wrapped in something without one."""
        denoiser: Any = self._transformer if network is None else network
        return denoiser, getattr(denoiser, "dtype", self._transformer.dtype)

    @property
    def _patch(self) -> tuple[int, int, int]:
        """Frames, rows and columns of latents that make a token."""
        config = self._config
        if isinstance(config.patch_size, int):
            return config.get("patch_size_t") or 1, config.patch_size, config.patch_size
        frames, rows, columns = config.patch_size
        return frames, rows, columns

    def tokens_to_grid(self, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B, L, C), the text already apart, -> (B, C, F', h', w')."""
        grid = [n // p for n, p in zip(z_t.shape[2:], self._patch, strict=True)]
        return tokens.unflatten(1, grid).movedim(-1, 1)


class ScaledLatents(Teacher):
    """The half of an adapter whose latents are those of its autoencoder times its scaling_factor."""

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode, scaled."""
        vae = self._part("vae")
        latents: Tensor = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
        return latents * vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        vae = self._part("vae")
        video: Tensor = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
        return video.float()
