"""The discriminator: features of the teacher's own blocks, judged by heads that see time (SDXL-Lightning, SF-V)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from fewstep.distill.objectives.base import Settings
from fewstep.student.adapters import adapter_parameters, add_adapter, shared_copy
from fewstep.teacher.base import TAP_DEPTHS, Teacher
from fewstep.teacher.conditions import Conditions

ADAPTER = "discriminator"
GROUP_CHANNELS = 8  # at least so many per group: a feature grid of a single place must not be normalised away


class DiscriminatorSettings(Settings):
    """Which features the discriminator reads, and how."""

    depths: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = TAP_DEPTHS
    """Fractions of the backbone's depth at whose blocks a head reads."""
    width: Annotated[int, Field(ge=GROUP_CHANNELS)] = 64
    """Channels of a head."""
    temporal: bool = True
    """Whether heads convolve over time; without it students may freeze (arXiv 2406.04324)."""
    backbone: Literal["frozen", "trained", "lora"] = "frozen"
    """The teacher's own network, a copy that is trained, or the teacher's own with trained adapters."""
    lora_rank: PositiveInt = 16
    """Rank of those adapters."""


class Discriminator(nn.Module):
    """One logit per clip and head, for an endpoint z_s of a transition, or for the pair of z_t and z_s.

    The backbone is asked through `teacher`. `frozen`: it is read as it is, and neither registered, saved nor trained.
    `trained`: an own copy, in float32. `lora`: a shared copy with its own adapter, which never meets the student's;
    only the adapter is registered.
    Clips do not see one another: a logit depends on its own clip alone. Heads are made for the shapes of features
    found at construction, but take any number of frames and any size.
    """

    def __init__(
        self,
        teacher: Teacher,
        backbone: nn.Module,
        settings: DiscriminatorSettings,
        latent_shape: Sequence[int],
        conditions: Conditions,
        conditional: bool,
    ) -> None:
        """latent_shape is (C, F, h, w); `conditions` are any clip's, to ask the backbone once.

        Raises ValueError when the backbone names no blocks.
        """
        super().__init__()
        self.settings = settings
        self.conditional = conditional
        self._teacher = teacher
        if settings.backbone == "trained":
            self.backbone = backbone = deepcopy(backbone).float().requires_grad_(True)
        elif settings.backbone == "lora":
            backbone, self.adapters = _adapted(backbone, settings.lora_rank)
        self._backbone = (backbone,)  # in a tuple, which nn.Module does not look into
        with torch.no_grad():
            probe = torch.zeros(1, *latent_shape, device=teacher.device)
            features = self._read(probe, torch.tensor([0.5]), conditions[:1])
        reads = 2 if conditional else 1
        heads = [Head(f.shape[1], reads, settings.width, settings.temporal).to(f.device) for f in features]
        self.heads = nn.ModuleList(heads)

    def forward(
        self, z_s: Tensor, s: Tensor, conditions: Conditions, z_t: Tensor | None = None, t: Tensor | None = None
    ) -> Tensor:
        """Logits (n B, heads), in float32 under autocast too; gradients flow to the latents.

        z_s (n B, C, F, h, w) holds n endpoints of each start, one batch behind the other, usually n = 1. s and t are
        (B,), z_t is (B, C, F, h, w); a relaxed discriminator is given neither z_t nor t, a conditional one both.
        Raises ValueError otherwise.
        """
        if {z_t is not None, t is not None} != {self.conditional}:
            kind, needs = ("conditional", "needs z_t and t") if self.conditional else ("relaxed", "takes no z_t and t")
            raise ValueError(f"a {kind} discriminator {needs}: pass them if and only if it is conditional")
        count = len(z_s) // len(conditions)
        features = self._read(z_s, s.repeat(count), Conditions.join([conditions] * count))
        if z_t is not None and t is not None:
            # apart from z_s: where nothing here is trained, no activations are kept
            starts = self._read(z_t, t, conditions)
            features = [
                torch.cat([f, start.repeat(count, 1, 1, 1, 1)], dim=1)
                for f, start in zip(features, starts, strict=True)
            ]
        with torch.autocast(z_s.device.type, enabled=False):  # bfloat16 is too coarse for finite differences of logits
            return torch.cat([head(f) for head, f in zip(self.heads, features, strict=True)], dim=1)

    def _read(self, z: Tensor, t: Tensor, conditions: Conditions) -> list[Tensor]:
        depths, (backbone,) = self.settings.depths, self._backbone
        return [f.float() for f in self._teacher.features(z, t, conditions, depths, backbone)]


class Head(nn.Module):
    """(B, reads * channels, F, h, w) features -> (B, 1): two convolutions, then the mean over time and place.

    What each read holds is normalised by itself, in groups of channels per clip: features of transformers differ by
    orders of magnitude between layers and between channels.
    """

    def __init__(self, channels: int, reads: int, width: int, temporal: bool) -> None:
        super().__init__()
        kernel, padding = ((3, 3, 3), (1, 1, 1)) if temporal else ((1, 3, 3), (0, 1, 1))
        self.layers = nn.Sequential(
            nn.GroupNorm(reads * _groups(channels), reads * channels),
            nn.Conv3d(reads * channels, width, kernel, padding=padding),
            nn.GroupNorm(_groups(width), width),
            nn.SiLU(),
            nn.Conv3d(width, width, kernel, padding=padding),
            nn.GroupNorm(_groups(width), width),
            nn.SiLU(),
        )
        self.logit = nn.Linear(width, 1)
        nn.init.normal_(self.logit.weight, std=0.1 / width**0.5)  # logits start near 0, but not without gradient
        nn.init.zeros_(self.logit.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1)."""
        # transformers' tokens come channels-last, on which torch's CPU GroupNorm crashes in backward (torch 2.13)
        logits: Tensor = self.logit(self.layers(features.contiguous()).mean(dim=(2, 3, 4)))
        return logits


def _adapted(network: nn.Module, rank: int) -> tuple[nn.Module, nn.ParameterDict]:
    """The same weights with a fresh adapter on them, and the adapter's parameters."""
    ours = shared_copy(network)
    add_adapter(ours, ADAPTER, rank, alpha=rank)
    parameters = adapter_parameters(ours, ADAPTER)
    return ours, nn.ParameterDict({name.replace(".", "/"): parameter for name, parameter in parameters.items()})


def _groups(channels: int) -> int:
    """The most groups, up to 32, that divide the channels and hold GROUP_CHANNELS of them each."""
    most = max(1, min(32, channels // GROUP_CHANNELS))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)
