"""What feature networks do to clips before they read them."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


def first_frames(videos: Tensor, fewest: int, most: int, name: str) -> Tensor:
    """The first `most` frames of videos (B, 3, F, H, W). Raises ValueError when they have fewer than `fewest`."""
    if videos.ndim != 5 or videos.shape[1] != 3:
        raise ValueError(f"{name} takes videos (B, 3, F, H, W), not a tensor of shape {tuple(videos.shape)}")
    if videos.shape[2] < fewest:
        raise ValueError(f"{name} needs clips of at least {fewest} frames, and these have {videos.shape[2]}")
    return videos[:, :, :most]


def eight_bits(videos: Tensor) -> Tensor:
    """Values in -1..1 rounded to the 256 of a file, so that clips from a model and from disk are treated alike."""
    return ((videos.float().clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def resized(videos: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """Videos (B, 3, F, H, W), the whole frame resized, bilinearly and frame by frame."""
    batch, frames = videos.shape[0], videos.shape[2]
    pictures = videos.transpose(1, 2).flatten(0, 1)
    pictures = interpolate(pictures, (height, width), mode="bilinear", align_corners=False, antialias=antialias)
    return pictures.unflatten(0, (batch, frames)).transpose(1, 2)
