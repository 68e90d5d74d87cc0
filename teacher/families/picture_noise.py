"""Noise that belongs to an image: what a pipeline draws of it is then the same for every clip, prompt and seed."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor


def generator_of(picture: Tensor) -> torch.Generator:
    """The image's own generator; `picture` is uint8 (3, 1, H, W). Calls that pass it to the pipeline draw the same."""
    return torch.Generator().manual_seed(zlib.crc32(picture.cpu().contiguous().numpy().tobytes()))
