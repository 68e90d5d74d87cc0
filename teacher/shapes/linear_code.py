"""The linear code of 4x8x8 patches that the autoencoder starts from and is compared with.

Half-whitened principal components: 768 numbers of a patch become `channels` numbers. It is both the best linear
autoencoder of its size and the definition of the shapes latents: `autoencoder.py` teaches a genuine
`AutoencoderKLWan` to compute it, so denoiser and autoencoder can be trained at the same time.

Half-whitened: a component of standard deviation d is scaled to d^(1/2), all of them together to unit variance. Noise
then drowns the fine components before the coarse ones, as it does in pixels, and a denoiser can decide coarse to
fine; with equal variances it would have to decide all at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

LINEAR_CODE = "linear_code.safetensors"  # in the pipeline's folder; diffusers does not look at it
_T, _P = 4, 8  # frames and pixels per patch


@dataclass(frozen=True)
class LinearCode:
    """mean (768,), basis (768, channels) orthonormal, scale (channels,): what one unit of each channel is worth."""

    mean: Tensor
    basis: Tensor
    scale: Tensor

    def encode(self, video: Tensor) -> Tensor:
        """video (B, 3, 1+4k, H, W) in -1..1 -> latents (B, channels, 1+k, H/8, W/8), of unit variance in all."""
        code = (_patches(video) - self.mean) @ self.basis / self.scale
        return code.permute(0, 4, 1, 2, 3).contiguous()

    def decode(self, latents: Tensor) -> Tensor:
        """The best linear reconstruction: latents (B, channels, 1+k, h, w) -> video (B, 3, 1+4k, 8h, 8w)."""
        patches = (latents.permute(0, 2, 3, 4, 1) * self.scale) @ self.basis.T + self.mean
        b, k, h, w, _ = patches.shape
        patches = patches.view(b, k, h, w, _T, _P, _P, 3)
        video = patches.permute(0, 7, 1, 4, 2, 5, 3, 6).reshape(b, 3, k * _T, h * _P, w * _P)
        return video[:, :, _T - 1 :]

    def state(self) -> dict[str, Tensor]:
        """Tensors for safetensors."""
        return {"mean": self.mean, "basis": self.basis, "scale": self.scale}

    @staticmethod
    def fit(videos: Iterable[Tensor], channels: int) -> LinearCode:
        """Principal components over batches of videos (B, 3, 1+4k, H, W), in float64."""
        # sums alone are kept, so that clips need not be in memory together
        count, total, square = 0, torch.zeros(3 * _T * _P * _P, dtype=torch.float64), None
        for video in videos:
            flat = _patches(video.double()).flatten(0, 3)
            count, total = count + len(flat), total + flat.sum(0)
            square = flat.T @ flat if square is None else square + flat.T @ flat
        if square is None:
            raise ValueError("no videos to fit a linear code to: pass at least one batch")
        # principal components: eigenvectors of the covariance, the largest variance first
        mean = total / count
        variances, vectors = torch.linalg.eigh(square / count - torch.outer(mean, mean))
        basis = vectors.flip(1)[:, :channels]
        basis = basis * basis.sum(0).sign()  # eigenvectors come with either sign: fix one
        # half-whitened: each component is scaled to the square root of its deviation
        deviations = variances.flip(0)[:channels].sqrt()
        scale = deviations.sqrt() * deviations.mean().sqrt()  # so that the variances of the channels average 1
        return LinearCode(mean.float(), basis.float().contiguous(), scale.float())


def _patches(video: Tensor) -> Tensor:
    """(B, 3, 1+4k, H, W) -> (B, 1+k, H/8, W/8, 768); the first frame, alone in Wan's code, counts four times."""
    video = torch.cat([video[:, :, :1].expand(-1, -1, _T - 1, -1, -1), video], dim=2)
    b, c, f, h, w = video.shape
    video = video.view(b, c, f // _T, _T, h // _P, _P, w // _P, _P)
    return video.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(b, f // _T, h // _P, w // _P, -1)
