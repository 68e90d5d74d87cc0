"""LTX-2's two streams in one latent tensor: the tokens of the sound lie behind those of the video."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn import functional

from fewstep.teacher.families.ltx_parts import to_latents, to_tokens

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Streams:
    """Latents (B, C, frames, h, w): the video's frames, then whole ones that hold the tokens of the sound, row by row.

    grid: the video's (F, h, w). sound: how many tokens it has, of as many channels. What is left of the last frame is
    nothing: zeros, which are kept.
    """

    grid: Grid
    sound: int

    @property
    def shape(self) -> Grid:
        """(frames, h, w) of both together."""
        frames, height, width = self.grid
        return frames + -(-self.sound // (height * width)), height, width

    @property
    def nothing(self) -> int:
        """Tokens behind the sound that are neither."""
        return prod(self.shape) - prod(self.grid) - self.sound

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, frames, h, w) -> tokens (B, L, C) of the video and of the sound."""
        return self.split_tokens(to_tokens(z))

    def split_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, C) of both, one behind the other -> of each."""
        length = prod(self.grid)
        return tokens[:, :length], tokens[:, length : length + self.sound]

    def join(self, video: Tensor, sound: Tensor) -> Tensor:
        """Tokens (B, L, C) of each -> (B, C, frames, h, w)."""
        return to_latents(functional.pad(join_tokens(video, sound), (0, 0, 0, self.nothing)), self.shape)

    def mask(self, device: torch.device) -> Tensor:
        """(1, 1, frames, h, w), bool: where nothing is."""
        padding = torch.zeros(prod(self.shape), dtype=torch.bool, device=device)
        padding[len(padding) - self.nothing :] = True
        return padding.view(1, 1, *self.shape)


def join_tokens(video: Tensor, sound: Tensor) -> Tensor:
    """One behind the other, the narrower sound with zeros for the channels that it lacks."""
    return torch.cat([video, functional.pad(sound, (0, video.shape[2] - sound.shape[2]))], dim=1)
