"""What a small decoder learns from: latents, and what the teacher's autoencoder makes of them, decoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.distill.decoder.recipe import DecoderRecipe
from fewstep.teacher.base import Teacher
from fewstep.teacher.dataset.shuffled_rows import ShuffledRows
from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.videos.writing import to_uint8

_CLIPS_PER_FILE = 32


class Recorder:
    """Stands in for an autoencoder's `decode`, which it asks, and keeps what went in and came out as clips."""

    def __init__(self, decode: Callable[..., Any]) -> None:
        self._decode = decode
        self.latents: list[Tensor] = []  # (B, C, n, h, w) as the autoencoder takes them
        self.videos: list[Tensor] = []  # (B, 3, F, H, W)

    def __call__(self, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the autoencoder."""
        output = self._decode(z, *args, **kwargs)
        num_frames = kwargs.get("num_frames") or 1
        self.latents.append(_as_clips(z, num_frames))
        self.videos.append(_as_clips(output[0], num_frames))
        return output


def _as_clips(x: Tensor, num_frames: int) -> Tensor:
    """(B, C, F, H, W); images (N, C, H, W), of which `num_frames` in a row are a clip, as well."""
    return x if x.ndim == 5 else x.unflatten(0, (-1, num_frames)).transpose(1, 2)


@torch.no_grad()
def make_pairs(
    recipe: DecoderRecipe,
    teacher: Teacher,
    datasets: Sequence[Path],
    folder: Path,
    on_clip: Callable[[int, int], None] = lambda done, planned: None,
) -> None:
    """Decodes clips of the datasets, in turn, into files in `folder`; what is there already stays.

    Of each clip the part, the noise and the place in its file follow from the recipe's seed and the clip's number.
    """
    settings = recipe.decoder
    rows = [ShuffledRows(dataset, teacher_sha256=teacher.sha256(), seed=recipe.seed) for dataset in datasets]
    planned = min(settings.clips, sum(map(len, rows)))
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, planned, _CLIPS_PER_FILE):
        path = folder / f"{first // _CLIPS_PER_FILE:05d}.safetensors"
        numbers = range(first, min(first + _CLIPS_PER_FILE, planned))
        # what a clip becomes follows from its number, so files of an earlier run can stay
        if path.is_file():
            on_clip(numbers.stop, planned)
            continue
        # the decoder's targets are what the autoencoder itself decodes, recorded with the latents it was given
        recorder = Recorder(teacher.pipeline.vae.decode)
        for number in numbers:
            latents = rows[number % len(rows)][number // len(rows)]["latents"].float()
            with teacher.decoding_by(recorder):
                teacher.decode(_shown(latents, number, recipe, teacher)[None].to(teacher.device))
            on_clip(number + 1, planned)
        save_pairs(recorder, path)


def save_pairs(recorder: Recorder, path: Path) -> None:
    """Writes what was recorded, clips as 8 bits, whole or not at all."""
    videos = torch.cat([torch.from_numpy(np.stack([to_uint8(clip) for clip in video])) for video in recorder.videos])
    latents = torch.cat(recorder.latents).float().cpu().contiguous()
    with whole_file(path) as part:
        save_file({"latents": latents, "videos": videos}, part)


def _shown(latents: Tensor, number: int, recipe: DecoderRecipe, teacher: Teacher) -> Tensor:
    """The part of a clip's latents that both decoders see, with noise."""
    random = np.random.default_rng([recipe.seed, number])
    window = recipe.decoder.window
    if window is not None:
        for axis, length in enumerate(teacher.latent_shape(*window.plain)[1:], start=1):
            start = int(random.integers(0, latents.shape[axis] - length + 1))
            latents = latents.narrow(axis, start, length)
    noise = torch.from_numpy(random.standard_normal(latents.shape, dtype=np.float32))
    return latents + recipe.decoder.noise * noise


class Pairs:
    """The pairs in a folder, in memory; the last ones are held out."""

    def __init__(self, folder: Path) -> None:
        loaded = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
        self.latents = torch.cat([tensors["latents"] for tensors in loaded])  # (N, C, n, h, w)
        self._videos = torch.cat([tensors["videos"] for tensors in loaded])  # (N, F, H, W, 3), uint8
        self.num_held_out = min(32, max(1, len(self.latents) // 10))
        self._orders: dict[tuple[int, int], np.ndarray] = {}  # of seed and epoch: the last one that was asked for

    def __len__(self) -> int:
        """Those that are learned from."""
        return len(self.latents) - self.num_held_out

    def held_out(self) -> list[tuple[Tensor, Tensor]]:
        """One by one."""
        return [self.take([number]) for number in range(len(self), len(self.latents))]

    def take(self, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Latents (B, C, n, h, w), and video (B, 3, F, H, W) in -1..1."""
        chosen = torch.as_tensor(numbers)
        return self.latents[chosen], self._videos[chosen].permute(0, 4, 1, 2, 3).float() / 127.5 - 1

    def batch(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """What step number `step` learns from: every epoch shows every pair once, in another order."""
        numbers = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, len(self))
            numbers.append(int(self._order(seed, epoch)[place]))
        return self.take(numbers)

    def _order(self, seed: int, epoch: int) -> np.ndarray:
        key = (seed, epoch)
        if key not in self._orders:
            self._orders = {key: np.random.default_rng(key).permutation(len(self))}
        return self._orders[key]

    def factors(self) -> tuple[int, int, bool]:
        """Pixels per side of a latent, frames per latent frame, and whether the first latent frame is one frame.

        Raises ValueError for clips whose frames are neither.
        """
        latent_frames, height = self.latents.shape[2:4]
        frames, pixels = self._videos.shape[1:3]
        # causal autoencoders: the first latent frame is one frame, each further one is several
        if latent_frames > 1 and (frames - 1) % (latent_frames - 1) == 0:
            return pixels // height, (frames - 1) // (latent_frames - 1), True
        if frames % latent_frames:
            raise ValueError(f"{latent_frames} latent frames make {frames} frames, which no small decoder supports")
        return pixels // height, frames // latent_frames, False
