"""The discriminator: features of the teacher's own blocks, judged by heads that see time (SDXL-Lightning, SF-V)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fewstep.distill.channel_statistics import ChannelStatistics
from fewstep.distill.heads import GROUP_CHANNELS, Head, Norm, Standardise
from fewstep.distill.objectives.base import Settings, TimedMethod
from fewstep.distill.parallel import placed_like
from fewstep.student.adapters import adapter_parameters, add_adapter, num_adapter_parameters, shared_copy
from fewstep.student.part import part_parameters
from fewstep.teacher.base import TAP_DEPTHS, Teacher
from fewstep.teacher.bases import Bases, Kinds, part_copy
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.experts import HIGH, LOW, Experts, join_rows, parts_of, with_parts
from fewstep.teacher.limited import Rank
from fewstep.teacher.sharded import context_size, is_sharded, shared_gradient

DISCRIMINATOR_ADAPTER = "discriminator"
_LEVELS = 8  # of noise, at which features are measured


class DiscriminatorSettings(Settings):
    """Which features the discriminator reads, and how."""

    depths: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = TAP_DEPTHS
    """Fractions of the backbone's depth at whose blocks a head reads."""
    width: Annotated[int, Field(ge=GROUP_CHANNELS)] = 64
    """Channels of a head."""
    temporal: bool = True
    """Whether heads convolve over time; without it students may freeze (arXiv 2406.04324)."""
    norm: Norm = "channel"
    """How heads see features: channel, by fixed statistics of each channel, or group, in groups per clip, which hides
    contrast and slows heads down."""
    backbone: Literal["frozen", "trained", "lora"] = "frozen"
    """The teacher's own network, a copy that is trained, or the teacher's own with trained adapters. Where only a part
    of students is trained (`student.only`), it is only that part of the discriminator, too."""
    lora_rank: Rank = 16
    """Rank of those adapters."""


class Discriminator(nn.Module):
    """One logit per clip and head, for an endpoint z_s of a transition, or for the pair of z_t and z_s.

    The backbone is called through `teacher`. `frozen`: it is read as it is, and neither registered, saved nor trained.
    `trained`: an own copy, in float32. `lora`: a shared copy with its own adapter, which never meets the student's;
    only the adapter is registered.
    Clips do not see one another: a logit depends on its own clip alone. Heads are made for the shapes of features
    at construction, but take any number of frames and any size.

    Of a backbone of two experts each clip is read by the one in charge at its time, so both sides of a comparison by
    the same one. Heads are shared: those of an expert's own would learn from its times only, which may be few. They see
    features at one scale, for each expert's are standardised by statistics of its own.

    With several base models each clip is read by its own, and heads get which one: a vector that is learned for each
    base model is added to its features, so that each base model's flow is judged as its own (arXiv 2403.12706).
    """

    def __init__(
        self,
        teacher: Teacher,
        backbone: nn.Module,
        settings: DiscriminatorSettings,
        clips: Tensor,
        conditions: Conditions,
        conditional: bool,
    ) -> None:
        """clips (B, C, F, h, w) are a few real ones, clean, with their conditions: features are measured on them.

        Raises ValueError when the backbone names no blocks.
        """
        super().__init__()
        self.settings = settings
        self.conditional = conditional
        self._teacher = teacher
        # the backbone: as it is, as a copy that learns, or as shared weights with an adapter that learns
        whole = teacher.denoiser if is_sharded(backbone) or context_size(backbone) > 1 else backbone
        if settings.backbone == "trained" and teacher.kinds is not None:
            backbone, self.part = _own_part(whole, teacher.kinds)
        elif settings.backbone == "trained":
            self.backbone = backbone = placed_like(deepcopy(whole).float().requires_grad_(True), backbone)
        elif settings.backbone == "lora":
            backbone = placed_like(_adapted(whole, settings.lora_rank, teacher.kinds), backbone)
            self.adapters = _registered(adapter_parameters(backbone, DISCRIMINATOR_ADAPTER))
        self._backbone = (backbone,)  # in a tuple, which nn.Module does not look into
        # heads are shared by both experts, whose features differ in scale: each expert's are standardised before
        self._standardise_experts(clips, conditions)
        measured, reads = self._measured(clips, conditions), 2 if conditional else 1
        # heads read features of about unit variance: activations of different depths differ by orders of magnitude
        heads = [
            Head(f.num_channels, reads, settings.width, settings.temporal, settings.norm).to(clips.device)
            for f in measured
        ]
        for head, statistics in zip(heads, measured, strict=True):
            head.standardise([statistics] * reads)
        self.heads = nn.ModuleList(heads)
        if isinstance(backbone, Bases):
            embeddings = (_base_embedding(len(backbone), f.num_channels, clips.device) for f in measured)
            self.base_embeddings = nn.ModuleList(embeddings)

    def forward(self, z_s: Tensor, s: Tensor, conditions: Conditions, starts: Sequence[Tensor] | None = None) -> Tensor:
        """Logits (n B, heads), in float32 under autocast too; gradients flow to the latents.

        z_s (n B, C, F, h, w) holds n endpoints of each start, one batch behind the other, usually n = 1; s is (B,).
        `starts` are the features of z_t, as `read` gives them: a conditional discriminator needs them, a relaxed one
        takes none. Raises ValueError otherwise.
        """
        if (starts is not None) != self.conditional:
            kind, needs = ("conditional", "needs starts") if self.conditional else ("relaxed", "takes no starts")
            raise ValueError(f"a {kind} discriminator {needs}: pass them if and only if it is conditional")
        count = len(z_s) // len(conditions)
        # D(z_s) if relaxed, D(z_t, z_s) if conditional: features of both are read side by side (arXiv 2402.13929)
        repeated = Conditions.join([conditions] * count)
        features = self._of_bases(self.read(z_s, s.repeat(count), repeated), repeated)
        if starts is not None:
            features = [
                torch.cat([f, start.repeat(count, 1, 1, 1, 1)], dim=1)
                for f, start in zip(features, self._of_bases(starts, conditions), strict=True)
            ]
        with torch.autocast(z_s.device.type, enabled=False):  # bfloat16 is too coarse for finite differences of logits
            logits = torch.cat([head(f) for head, f in zip(self.heads, features, strict=True)], dim=1)
        return shared_gradient(logits, self._backbone[0])

    def read(self, z: Tensor, t: Tensor, conditions: Conditions) -> list[Tensor]:
        """The backbone's features of z at t, float32 (B, channels, F', h', w') per depth."""
        depths, (backbone,) = self.settings.depths, self._backbone
        features = [f.float() for f in self._teacher.features(z, t, conditions, depths, backbone)]
        if not isinstance(backbone, Experts) or not hasattr(self, "scales"):
            return features
        # each clip was read by the expert of its own time, whose features have a scale of their own
        shares: list[tuple[Tensor, Any]] = [
            (rows, self.scales[name]) for name, _, rows in backbone.shares(t.expand(len(z)))
        ]
        return [join_rows([(rows, scales[i](f[rows])) for rows, scales in shares]) for i, f in enumerate(features)]

    def _of_bases(self, features: Sequence[Tensor], conditions: Conditions) -> Sequence[Tensor]:
        """Features with the vector of each clip's base model, which the heads learn (arXiv 2403.12706)."""
        (backbone,) = self._backbone
        if not isinstance(backbone, Bases):
            return features
        numbers = backbone.numbers(conditions.shared, len(features[0])).to(features[0].device)
        return [
            f + embed(numbers)[..., None, None, None] for f, embed in zip(features, self.base_embeddings, strict=True)
        ]

    def _standardise_experts(self, clips: Tensor, conditions: Conditions) -> None:
        """Measures each expert's features at its own levels of noise."""
        (backbone,) = self._backbone
        if not isinstance(backbone, Experts):
            return
        boundary = float(self._teacher.schedule.level(backbone.boundary))
        # an expert is asked on its own side of the boundary only, so its statistics are taken there
        ends = {HIGH: (boundary, 1.0), LOW: (min(0.02, boundary / 2), boundary - 1e-6)}
        measured = {name: self._measured(clips, conditions, *ends[name]) for name in (HIGH, LOW)}
        scales = {name: [_standardise(f, clips.device) for f in statistics] for name, statistics in measured.items()}
        self.scales = nn.ModuleDict({name: nn.ModuleList(layers) for name, layers in scales.items()})

    def timed(self) -> list[TimedMethod]:
        """Its backbone and heads, for benchmarks; what joins features counts as its own time."""
        heads = [
            TimedMethod(head, "forward", f"head {i}", list(head.parameters())) for i, head in enumerate(self.heads)
        ]
        own = [p for name, p in self.named_parameters() if not name.startswith("heads.")]
        return [TimedMethod(self, "forward"), TimedMethod(self, "read", "backbone", own, whole=True), *heads]

    @torch.no_grad()
    def _measured(
        self, clips: Tensor, conditions: Conditions, lowest: float = 0.02, highest: float = 0.98
    ) -> list[ChannelStatistics]:
        """What features of the clips are like, per depth, at levels of noise from almost none to almost all, at least
        _LEVELS of them."""
        # levels sigma / (alpha + sigma), evenly spaced, as statistics of features depend on the noise in them
        rounds = -(-_LEVELS // len(clips))
        levels = torch.linspace(lowest, highest, rounds * len(clips), dtype=torch.float64).view(len(clips), rounds)
        schedule, generator = self._teacher.schedule, torch.Generator().manual_seed(0)
        measured = [ChannelStatistics() for _ in self.settings.depths]
        for level in levels.unbind(dim=1):
            t = schedule.time_of_level(level)
            noise = torch.randn(clips.shape, generator=generator).to(clips)
            # clip by clip, which memory for training is enough for: features of some depths are larger than latents
            for row in range(len(clips)):
                one = slice(row, row + 1)
                z_t = schedule.add_noise(clips[one], noise[one], t[one])
                for statistics, features in zip(measured, self.read(z_t, t[one], conditions[one]), strict=True):
                    statistics.add(features)
        return measured


def _standardise(statistics: ChannelStatistics, device: torch.device) -> Standardise:
    layer = Standardise(statistics.num_channels)
    layer.use([statistics])
    return layer.to(device)


def _base_embedding(count: int, num_channels: int, device: torch.device) -> nn.Embedding:
    """A vector per base model, nothing at first."""
    embedding = nn.Embedding(count, num_channels).to(device)
    nn.init.zeros_(embedding.weight)
    return embedding


def _adapted(network: nn.Module, rank: int, kinds: Kinds | None = None) -> nn.Module:
    """The same weights with a fresh adapter on them."""
    ours = with_parts(network, {name: shared_copy(part) for name, part in parts_of(network).items()})
    add_adapter(ours, DISCRIMINATOR_ADAPTER, rank, alpha=rank, kinds=kinds)
    return ours


def _own_part(network: nn.Module, kinds: Kinds) -> tuple[nn.Module, nn.ParameterDict]:
    """The same weights but for a copy of the part in float32, which is trained, and its parameters."""
    copies = {name: part_copy(part, kinds) for name, part in parts_of(network).items()}
    trained: dict[str, nn.Parameter] = {}
    for name, copied in copies.items():
        trained |= {f"{name}/{key}": parameter for key, parameter in part_parameters(copied, kinds).items()}
    # float32, as small updates would be lost in bfloat16
    for parameter in trained.values():
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
    return with_parts(network, copies), _registered(trained)


def _registered(parameters: Mapping[str, nn.Parameter]) -> nn.ParameterDict:
    return nn.ParameterDict({name.replace(".", "/"): parameter for name, parameter in parameters.items()})


def num_parameters(network: Any, settings: DiscriminatorSettings, conditional: bool, kinds: Kinds | None = None) -> int:
    """How many parameters a discriminator trains on a teacher's denoiser, which may have no weights.

    Heads read features as wide as a transformer's tokens or a UNet's widest block.
    """
    config = next(iter(parts_of(network).values())).config  # of experts all have the same architecture
    wide = (
        max(config.block_out_channels)
        if "block_out_channels" in config
        else (config.num_attention_heads * config.attention_head_dim)
    )
    # on the device meta heads have shapes and take no memory
    with torch.device("meta"):
        head = Head(wide, 2 if conditional else 1, settings.width, settings.temporal, settings.norm)
    heads = len(settings.depths) * sum(parameter.numel() for parameter in head.parameters())
    if settings.backbone == "lora":
        return heads + num_adapter_parameters(network, settings.lora_rank, settings.lora_rank, kinds=kinds)
    if settings.backbone == "frozen":
        return heads
    parts = parts_of(network).values()
    copied = [
        p for part in parts for p in (part.parameters() if kinds is None else part_parameters(part, kinds).values())
    ]
    return heads + sum(parameter.numel() for parameter in copied)
