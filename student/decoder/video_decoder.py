"""A small decoder of video latents, in one file that needs torch and diffusers alone: exports carry a copy of it.

It stands in for an autoencoder's decoder: convolutions over single frames, most of them at the latents' resolution. Its
blocks see the frame before as well, so that it is causal in time and long clips can be decoded piece by piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn.functional import silu

AUTO_MAP = {"AutoModel": "video_decoder.SmallVideoDecoder"}
FRAMES_AT_ONCE = 8  # latent frames that are decoded together
Memory = list["Tensor | None"]  # of each block, the last frame that it saw


class SmallVideoDecoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Decodes latents as the autoencoder does that it was distilled from, several times as fast.

    `decode` takes what that autoencoder's takes, so `pipe.vae.decode = decoder.decode` puts it into a pipeline. Of
    pipelines that only decode, `pipe.vae = decoder` does as well: `config` has the autoencoder's entries.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        latent_channels: int,
        spatial_factor: int,
        temporal_factor: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        first_frame_alone: bool = True,
        autoencoder: dict[str, Any] | None = None,
        autoencoder_sha256: str = "",
        auto_map: dict[str, str] = AUTO_MAP,
    ) -> None:
        """A decoder with random weights.

        spatial_factor: pixels per side of a latent. temporal_factor: frames per latent frame; with `first_frame_alone`
        the first latent frame is one frame, so that n latent frames are 1 + (n - 1) temporal_factor. widths and blocks:
        channels and residual blocks of each level, from the latents up; each level after the first has twice the
        resolution, and what is left of `spatial_factor` is unfolded from the channels of the last. autoencoder: the
        config of the one that it stands in for, whose weights have the hash `autoencoder_sha256`. auto_map: where
        diffusers finds this class.
        Raises ValueError for levels that do not fit the factors.
        """
        super().__init__()
        levels, unfold = len(widths), unfolded_at_last(spatial_factor, widths, blocks)
        self.growths = _growths(temporal_factor, levels)
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("std", torch.ones(latent_channels))
        self.enter = nn.Conv2d(latent_channels, widths[0], 3, padding=1)
        self.levels = nn.ModuleList()
        self.leave = nn.ModuleList()  # of each level
        for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            # blocks see the frame before at the first level and where frames were added: one frame is all they remember
            remembers = level == 0 or self.growths[level - 1] > 1
            self.levels.append(nn.ModuleList(_Block(width, remembers) for _ in range(count)))
            last = level == levels - 1
            # each level hands on 4 times the pixels and `growths` times the frames, folded into channels
            channels = 3 * unfold**2 if last else 4 * widths[level + 1]
            self.leave.append(nn.Conv2d(width, channels * self.growths[level], 3 if last else 1, padding=int(last)))
        self._unfold = unfold
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> SmallVideoDecoder:
        """As diffusers', with weights in the layout that convolutions over few channels are fastest in."""
        loaded: SmallVideoDecoder = super().from_pretrained(*args, **kwargs)
        return loaded.to(memory_format=torch.channels_last)

    @property
    def config(self) -> FrozenDict:
        """Its own entries, over those of the autoencoder that it stands in for."""
        own = self._internal_dict
        return FrozenDict({**(own.get("autoencoder") or {}), **own})

    def forward(self, z: Tensor) -> Tensor:
        """Latents (B, C, n, h, w) as the autoencoder takes them -> video (B, 3, F, H, W), about -1..1, not clamped."""
        return self.piece(z, None)[0]

    def piece(self, z: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """The frames of some latent frames, and what the next ones must know; memory None: they begin a clip."""
        batch, fresh = len(z), memory is None
        past = iter(memory or [])
        kept: Memory = []
        # normalised latents, channels last from here on: convolutions over few channels are fastest so
        x = (z - self.mean.view(-1, 1, 1, 1)) / self.std.view(-1, 1, 1, 1)
        x = _convolved(self.enter, x.permute(0, 2, 3, 4, 1).contiguous())
        for level, (blocks, leave, growth) in enumerate(zip(self.levels, self.leave, self.growths, strict=True)):
            for block in blocks.children():
                x, last = block(x, None if fresh else next(past))
                kept.append(last)
            x = _convolved(leave, x)
            if level < len(self.levels) - 1:
                x = silu(x)
            # channels become, from the outermost, frames, channels, and rows and columns of pixels: one copy
            side = self._unfold if level == len(self.levels) - 1 else 2
            x = x.unflatten(-1, (growth, -1, side, side)).permute(0, 1, 4, 2, 6, 3, 7, 5)
            x = x.reshape(batch, x.shape[1] * growth, x.shape[3] * side, x.shape[5] * side, x.shape[7])
            # a causal autoencoder's first latent frame is one frame: of those that grew from it the last is kept
            if fresh and self._internal_dict["first_frame_alone"]:
                x = x[:, growth - 1 :]
        return x.permute(0, 4, 1, 2, 3), kept

    def stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Video in -1..1 of latents that come piece by piece, (B, C, n, h, w) each, as soon as each piece is there.

        Together they are what `decode` makes of all latents at once.
        """
        memory: Memory | None = None
        for z in pieces:
            video, memory = self.piece(z.to(self.dtype), memory)
            yield video.clamp(-1, 1)

    def decode(
        self, z: Tensor, *_: Any, num_frames: int | None = None, return_dict: bool = True, **__: Any
    ) -> DecoderOutput | tuple[Tensor]:
        """As the autoencoder's: (B, C, n, h, w) -> (B, 3, F, H, W), or images, (N, C, h, w) -> (N, 3, H, W), of which
        `num_frames` in a row are a clip. Other inputs of an autoencoder, such as a time, have no effect."""
        images = z.ndim == 4
        if images:
            z = z.unflatten(0, (-1, num_frames or 1)).transpose(1, 2)
        # piece by piece, for less memory; blocks remember the frame before, so pieces join without a seam
        video = torch.cat(list(self.stream(z.split(FRAMES_AT_ONCE, dim=2))), dim=2)
        if images:
            video = video.transpose(1, 2).flatten(0, 1)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def encode(self, *_: Any, **__: Any) -> Any:
        """Raises NotImplementedError: it has no encoder."""
        raise NotImplementedError(
            "this is a decoder alone: keep the pipeline's autoencoder, and set `pipe.vae.decode = decoder.decode`"
        )


class _Block(nn.Module):
    """A residual block over single frames; one that remembers sees the frame before, too."""

    def __init__(self, width: int, remembers: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(width * (1 + remembers), width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.remembers = remembers
        # a block begins as the identity
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Frames (B, n, h, w, C), and the last ones, (B, h, w, C), for the next piece."""
        seen, last = x, None
        if self.remembers:
            first = torch.zeros_like(x[:, 0]) if past is None else past
            last = x[:, -1]
            seen = torch.cat([x, torch.cat([first[:, None], x[:, :-1]], dim=1)], dim=-1)
        return x + _convolved(self.second, silu(_convolved(self.first, seen))), last


def _convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution of frames (B, n, h, w, C), seen as images in the layout channels-last: no copy is made."""
    images: Tensor = layer(x.flatten(0, 1).permute(0, 3, 1, 2))
    return images.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def unfolded_at_last(spatial_factor: int, widths: Sequence[int], blocks: Sequence[int]) -> int:
    """What is left of `spatial_factor`, pixels per side of a latent, after the doublings of all levels but the first.

    Raises ValueError for levels that do not fit it.
    """
    unfold, rest = divmod(spatial_factor, 2 ** max(0, len(widths) - 1))
    if len(widths) != len(blocks) or not widths or rest or unfold < 1:
        raise ValueError(
            f"widths {list(widths)} and blocks {list(blocks)} make no decoder of {spatial_factor} pixels per "
            "latent: give both as many entries, each but the first for a doubling of the resolution"
        )
    return unfold


def _growths(factor: int, levels: int) -> list[int]:
    """How much time grows after each level: the factor's primes, one level each, the rest after the last."""
    primes, divisor = [], 2
    while factor > 1:
        while factor % divisor == 0:
            primes.append(divisor)
            factor //= divisor
        divisor += 1
    growths = [*primes[:levels], *[1] * (levels - len(primes))]
    for prime in primes[levels:]:
        growths[-1] *= prime
    return growths
