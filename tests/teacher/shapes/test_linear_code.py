"""The linear code inverts what it keeps and beats any other code of its size on its own data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep.teacher.shapes.autoencoder import clips
from fewstep.teacher.shapes.judge import batch
from fewstep.teacher.shapes.linear_code import LinearCode
from fewstep.teacher.training_loop import psnr_of_mse


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    return clips("train", 0, range(24))


@pytest.fixture(scope="module")
def code(video: torch.Tensor) -> LinearCode:
    return LinearCode.fit([video[:12], video[12:]], channels=16)


def test_shapes_and_unit_variance(video: torch.Tensor, code: LinearCode) -> None:
    latents = code.encode(video)
    assert latents.shape == (24, 16, 5, 8, 8)
    assert code.decode(latents).shape == video.shape
    assert float(latents.var()) == pytest.approx(1, abs=0.1)


def test_decoding_is_undone_by_encoding(code: LinearCode) -> None:
    # Still in the first group of four frames, as that group repeats one frame
    frame = clips("train", 1, range(2))[:, :, :1].expand(-1, -1, 5, -1, -1)
    decoded = code.decode(code.encode(frame))
    again = code.decode(code.encode(decoded))
    assert float(psnr_of_mse((again - decoded).square().mean())) > 35


def errors(video: torch.Tensor, *channels: int) -> list[torch.Tensor]:
    """Mean squared error of the clips' own code of so many channels."""
    codes = [LinearCode.fit([video], k) for k in channels]
    return [(code.decode(code.encode(video)) - video).square().mean() for code in codes]


def test_more_channels_reconstruct_better(video: torch.Tensor) -> None:
    of_channels = errors(video, 4, 16, 64)
    assert of_channels[0] > of_channels[1] > of_channels[2]


def test_sixteen_channels_hold_all_but_the_mottle() -> None:
    plain, _ = batch("train", 0, range(24), np.zeros(24))
    assert float(psnr_of_mse(errors(plain, 16)[0])) > 25


def test_an_empty_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no videos"):
        LinearCode.fit([], 16)
