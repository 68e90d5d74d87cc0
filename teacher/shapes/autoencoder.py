"""Trains the embedded teacher's AutoencoderKLWan: the encoder to compute the linear code, the decoder to undo it.

The encoder is regressed to `LinearCode`, so the latents are known before it is trained. The decoder sees the code
with a little noise, as a denoiser would leave it, and beats the linear reconstruction because it knows its
neighbours: edges are sharp and colours flat in this world.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.limited import Channels, Items, NumClips, NumFrames, NumSteps, Rate
from fewstep.teacher.screen import SILENT, TrainingScreen
from fewstep.teacher.shapes.captions import example
from fewstep.teacher.shapes.latents import to_tensor
from fewstep.teacher.shapes.linear_code import LinearCode
from fewstep.teacher.shapes.precision import TrainingPrecision, autocast
from fewstep.teacher.shapes.world import Split, render_scene
from fewstep.teacher.training_loop import Budget, psnr_of_mse, train_network


class AutoencoderRecipe(BaseModel):
    """Sizes and budget of the autoencoder."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    channels: Channels = 16
    code_clips: Items = 2000  # clips the linear code is fitted to
    encoder_dim: Channels = 16
    decoder_dim: Channels = 24
    steps: NumSteps = 2550
    batch: NumClips = 4
    lr: Rate = 2e-3
    muon: Literal["none", "filters"] = "filters"  # 25 dB where AdamW has 18: see LOG.md
    frames: NumFrames = 9  # of each clip, which is causal, until the cooldown; whole clips while lr falls
    cooldown: float = Field(0.3, ge=0, le=1)
    ema: float = Field(0.995, ge=0, lt=1)
    noise: float = Field(0.05, ge=0)  # on the latents the decoder learns from
    watch_clips: Items = 32  # held-out clips that reconstruction is watched on
    precision: TrainingPrecision = "fp32"


def make_autoencoder(recipe: AutoencoderRecipe) -> AutoencoderKLWan:
    """An AutoencoderKLWan of 4x8x8 compression whose residual branches start at zero, so that it starts linear."""
    channels = recipe.channels
    model = AutoencoderKLWan(
        base_dim=recipe.encoder_dim,
        decoder_base_dim=recipe.decoder_dim,
        z_dim=channels,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.0] * channels,
        latents_std=[1.0] * channels,
    )
    # last layers of residual branches: with zeros there, a block is its shortcut
    for name, module in model.named_modules():
        if name.endswith(("conv2", "proj")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return model


def fit_code(recipe: AutoencoderRecipe, seed: int, path: Path) -> LinearCode:
    """The linear code of the world's training clips; fitted once, then read from `path` (safetensors)."""
    if not path.exists():
        batches = range(0, recipe.code_clips, 100)
        code = LinearCode.fit(
            (clips("train", seed, range(i, min(i + 100, recipe.code_clips))) for i in batches),
            recipe.channels,
        )
        with whole_file(path) as part:
            save_file(code.state(), part)
    return LinearCode(**load_file(path))


def train_autoencoder(
    model: AutoencoderKLWan,
    code: LinearCode,
    recipe: AutoencoderRecipe,
    seed: int,
    folder: Path,
    screen: TrainingScreen = SILENT,
) -> None:
    """Trains encoder and decoder side by side, in place."""
    device = next(model.parameters()).device

    def losses(step: int) -> dict[str, Tensor]:
        first = step * recipe.batch
        video = clips("train", seed + 1, range(first, first + recipe.batch))
        # most steps see short clips, which a causal autoencoder learns as well from; the last ones see whole clips
        if step < (1 - recipe.cooldown) * recipe.steps:
            video = video[:, :, : recipe.frames]
        target = code.encode(video)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        # the decoder learns from what a denoiser leaves: latents that are a little off
        noisy = target + recipe.noise * torch.randn(target.shape, generator=generator)
        video, target, noisy = video.to(device), target.to(device), noisy.to(device)
        # encoder and decoder do not wait for each other: the decoder reads the linear code, not the encoder's output
        with autocast(recipe.precision, device):
            mean, log_variance = model._encode(video).float().chunk(2, dim=1)
            decoded = decode_unclamped(model, noisy).float()
        encoding = (mean - target).square().mean()
        decoding = (decoded - video).square().mean()
        # The posterior is not sampled from in training: pin it to a small constant so that .sample() is harmless
        spread = (log_variance + 8).square().mean()
        sharp = (decoded - video).abs().mean()
        terms = {"encoder": encoding, "decoder": decoding, "psnr": psnr_of_mse(decoding)}
        return {"loss": encoding + 10 * decoding + sharp + 0.01 * spread, **terms}

    def watch(step: int) -> Mapping[str, float]:
        return reconstruction(model, code, seed, recipe.watch_clips)

    budget = Budget(recipe.steps, recipe.lr, 30, recipe.cooldown, recipe.ema, recipe.muon)
    train_network("autoencoder", folder, {"autoencoder": model}, losses, budget, watch, watch_every=500, screen=screen)


@torch.no_grad()
def reconstruction(
    model: AutoencoderKLWan, code: LinearCode, seed: int, count: int, split: Split = "held-out"
) -> dict[str, float]:
    """PSNR in dB of encode-decode on `count` clips, of the linear code alone, and the encoder's relative error."""
    device = next(model.parameters()).device
    errors = torch.zeros(3)
    for i in range(0, count, 8):
        video = clips(split, seed, range(i, min(i + 8, count)))
        mean = model.encode(video.to(device)).latent_dist.mode()
        decoded = model.decode(mean).sample.cpu()
        target = code.encode(video)
        linear = code.decode(target).clamp(-1, 1)
        # the autoencoder, the linear code that it must beat, and the encoder's distance from that code
        differences = ((decoded - video), (linear - video), (mean.cpu() - target))
        errors += torch.stack([e.square().mean() for e in differences]) * len(video) / count
    return {
        "psnr_db": float(psnr_of_mse(errors[0])),
        "linear_psnr_db": float(psnr_of_mse(errors[1])),
        "encoder_error": float(errors[2]),
    }


def decode_unclamped(model: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """As model.decode, but values beyond -1..1 keep a gradient: a clamp would leave them where they are."""
    model.clear_cache()
    x = model.post_quant_conv(latents)
    # frame by frame with a cache of the frames before, as the model's own decode has it
    parts = []
    for i in range(x.shape[2]):
        model._conv_idx = [0]
        part = model.decoder(
            x[:, :, i : i + 1], feat_cache=model._feat_map, feat_idx=model._conv_idx, first_chunk=i == 0
        )
        parts.append(part)
    model.clear_cache()
    return unpatchify(torch.cat(parts, dim=2), model.config.patch_size)


def clips(split: Split, seed: int, indices: range) -> Tensor:
    """The split's clips of these numbers, (B, 3, FRAMES, SIDE, SIDE) in -1..1."""
    return to_tensor([render_scene(example(split, seed, i)[0]) for i in indices])
