"""A small decoder learns what the teacher's autoencoder makes of latents: pixels, and how clips look over time."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm

from fewstep.distill.decoder.features import feature_distance, loss_features
from fewstep.distill.decoder.pairs import Pairs
from fewstep.distill.decoder.recipe import DecoderRecipe, DecoderSettings
from fewstep.distill.objectives.losses import discriminator_loss, generator_loss
from fewstep.student.decoder.files import autoencoder_sha256
from fewstep.student.decoder.video_decoder import SmallVideoDecoder
from fewstep.teacher.base import Teacher
from fewstep.teacher.screen import SILENT, TrainingScreen
from fewstep.teacher.training_loop import Budget, psnr_of_mse, train_network

_WARMUP = 50  # steps
_WATCH_EVERY = 250  # steps


def new_decoder(settings: DecoderSettings, seed: int, teacher: Teacher, pairs: Pairs) -> SmallVideoDecoder:
    """With random weights, of the factors that the pairs show. Raises ValueError for levels that do not fit them."""
    spatial, temporal, alone = pairs.factors()
    vae = teacher.pipeline.vae
    own = {name: value for name, value in dict(vae.config).items() if not name.startswith("_")}
    torch.manual_seed(seed)
    decoder = SmallVideoDecoder(
        latent_channels=pairs.latents.shape[1],
        spatial_factor=spatial,
        temporal_factor=temporal,
        widths=list(settings.widths),
        blocks=list(settings.blocks),
        first_frame_alone=alone,
        autoencoder=own,
        autoencoder_sha256=autoencoder_sha256(teacher),
    )
    # the decoder sees latents of mean 0 and variance 1 per channel, as measured on some of the pairs
    some = pairs.latents[:256].transpose(0, 1).flatten(1)
    decoder.mean.copy_(some.mean(dim=1))
    decoder.std.copy_(some.std(dim=1).clamp_min(1e-6))
    return decoder.to(teacher.device)


def train_decoder(
    recipe: DecoderRecipe, teacher: Teacher, pairs: Pairs, folder: Path, screen: TrainingScreen = SILENT
) -> SmallVideoDecoder:
    """The trained decoder; `folder` keeps its checkpoint and TensorBoard logs, and training that was begun there is
    resumed."""
    settings, device = recipe.decoder, teacher.device
    decoder = new_decoder(settings, recipe.seed, teacher, pairs)
    judge = ClipDiscriminator(settings.discriminator.width).to(device)
    features = loss_features(settings.features, teacher)

    def losses(step: int) -> dict[str, Tensor]:
        z, video = (x.to(device) for x in pairs.batch(step, settings.batch, recipe.seed))
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            made = decoder(z)
        made = made.float()
        error = made - video
        # L1 keeps edges sharp, the squared error keeps PSNR; further terms join once their share of steps is over
        parts = {"pixels": error.abs().mean() + error.square().mean()}
        if settings.features.weight and step >= settings.features.start * settings.steps:
            parts["features"] = settings.features.weight * feature_distance(features, made, video)
        if settings.discriminator.weight and step >= settings.discriminator.start * settings.steps:
            parts |= _adversarial(judge, made, video, settings.discriminator.weight)
        figures = {"psnr_db": psnr_of_mse(error.detach().square().mean())}
        return {"loss": torch.stack(list(parts.values())).sum(), **parts, **figures}

    def watch(step: int) -> Mapping[str, float]:
        return {"held_out_psnr_db": held_out_psnr(decoder, pairs)}

    # Muon for filters, AdamW for the rest; the EMA is what remains
    budget = Budget(settings.steps, settings.lr, _WARMUP, settings.cooldown, settings.ema, muon="filters")
    modules: dict[str, nn.Module] = {"decoder": decoder, "discriminator": judge}
    train_network("decoder", folder, modules, losses, budget, watch, watch_every=_WATCH_EVERY, screen=screen)
    return decoder.requires_grad_(False).eval()


def _adversarial(judge: ClipDiscriminator, made: Tensor, video: Tensor, weight: float) -> dict[str, Tensor]:
    """One backward pass trains both: what the decoder minimises does not reach the discriminator's weights, nor what
    the discriminator minimises the decoder."""
    real = judge(video)
    fools = generator_loss("relativistic", real.detach(), judge.frozen(made))
    tells = discriminator_loss("relativistic", real, judge(made.detach()))
    return {"adversarial": weight * fools, "discriminator": tells}


@torch.no_grad()
def held_out_psnr(decoder: SmallVideoDecoder, pairs: Pairs) -> float:
    """In dB, of decoded clips in -1..1 against the autoencoder's, over the pairs held out."""
    errors = [
        (decoder(z.to(decoder.device)).clamp(-1, 1).cpu() - video).square().mean() for z, video in pairs.held_out()
    ]
    return float(psnr_of_mse(torch.stack(errors).mean()))


class ClipDiscriminator(nn.Module):
    """Convolutions over space and time, each of bounded slope (spectral normalisation, arXiv 1802.05957)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        # every layer halves height and width, all but the first the frames as well
        for level, (before, after) in enumerate(pairwise(widths)):
            stride = (1 if level == 0 else 2, 2, 2)
            layers += [spectral_norm(nn.Conv3d(before, after, (3, 4, 4), stride, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv3d(widths[-1], 1, (1, 3, 3), padding=(0, 1, 1))))

    def forward(self, video: Tensor) -> Tensor:
        """Logits (B, places) of clips (B, 3, F, H, W) in -1..1."""
        return self.layers(video).flatten(1)

    def frozen(self, video: Tensor) -> Tensor:
        """The same, with gradients to the clips alone."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        return functional_call(self, weights, (video,))
