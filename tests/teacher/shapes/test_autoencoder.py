"""The autoencoder's training shortcuts compute what AutoencoderKLWan computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewstep.teacher.shapes.autoencoder import (
    AutoencoderRecipe,
    clips,
    decode_unclamped,
    fit_code,
    make_autoencoder,
    reconstruction,
)
from fewstep.teacher.shapes.linear_code import LinearCode
from fewstep.teacher.training_loop import psnr_of_mse

SMALL = AutoencoderRecipe(channels=4, encoder_dim=4, decoder_dim=4, code_clips=8)


@torch.no_grad()
def test_decoding_without_the_clamp_is_diffusers_decoding() -> None:
    torch.manual_seed(0)
    model = make_autoencoder(SMALL)
    latents = 3 * torch.randn(2, 4, 3, 8, 8)
    unclamped = decode_unclamped(model, latents)
    assert float(unclamped.abs().max()) > 1
    assert torch.equal(unclamped.clamp(-1, 1), model.decode(latents).sample)
    video = clips("train", 0, range(1))
    assert torch.equal(model._encode(video).chunk(2, dim=1)[0], model.encode(video).latent_dist.mode())


def test_reconstruction_counts_every_clip_once() -> None:
    model = make_autoencoder(SMALL)
    code = LinearCode.fit([clips("train", 0, range(4))], channels=4)
    figures = reconstruction(model, code, seed=0, count=9)
    video = clips("held-out", 0, range(9))
    with torch.no_grad():
        linear = (code.decode(code.encode(video)).clamp(-1, 1) - video).square().mean()
    assert figures["linear_psnr_db"] == pytest.approx(float(psnr_of_mse(linear)), abs=1e-3)


def test_the_code_is_fitted_once(tmp_path: Path) -> None:
    path = tmp_path / "code.safetensors"
    first = fit_code(SMALL, 0, path)
    again = fit_code(SMALL, 1, path)  # another seed: would differ if it were fitted
    assert torch.equal(first.basis, again.basis)
