"""LTX-2's own guidance: of the text, of perturbed attention (arXiv 2411.18664), and of each stream without the other."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.families.ltx2_streams import join, split
from fewstep.teacher.schedule import NoiseSchedule

VIDEO, SOUND, STG, MODALITY, RESCALE = 3.0, 7.0, 1.0, 3.0, 0.7  # LTX2Pipeline's defaults


class LTX2Guidance(Teacher):
    """The hook that returns guided x0. The recipe's weight is the video's; the sound's is as many times 7 - 1 to 3 - 1
    above 1, so that 3 means the pipeline's own 3 and 7. The other terms have the pipeline's weights."""

    guidance_terms = MappingProxyType(
        {"sound_at_3": SOUND, "perturbed_attention": STG, "modality": MODALITY, "rescale": RESCALE}
    )
    stg_blocks: tuple[int, ...] = (28,)

    @property
    def guided_evaluations(self) -> int:
        """Four, or three where the denoiser has no attention that could be perturbed."""
        return 4 if self._perturbs else 3

    @property
    def _perturbs(self) -> bool:
        config: Any = self.pipeline.transformer.config
        return bool(config.perturbed_attn) and any(block < config.num_layers for block in self.stg_blocks)

    def guided_x0(
        self, z_t: Tensor, t: Tensor, conditions: Conditions, weights: Tensor, network: nn.Module | None
    ) -> Tensor:
        """x0 of clips that are all guided; weights (B,): of the video."""
        schedule, count = self.schedule_of(network), len(z_t)
        everyone = torch.ones(count, dtype=torch.bool)
        twice = self.predict(torch.cat([z_t, z_t]), torch.cat([t, t]), conditions.branches(everyone), network)
        u, c = (schedule.to_x0(half, z_t, t) for half in twice.split(count))
        others = {"modality": self._perturbed(z_t, t, conditions, network, schedule, isolate_modalities=True)}
        if self._perturbs:
            blocks = list(self.stg_blocks)
            others["stg"] = self._perturbed(
                z_t, t, conditions, network, schedule, spatio_temporal_guidance_blocks=blocks
            )
        streams = [split(x, self._sound_tokens) for x in (c, u, *others.values())]
        ratio = (SOUND - 1) / (VIDEO - 1)
        guided = []
        for of_stream, strength in zip(zip(*streams, strict=True), (1.0, ratio), strict=True):
            own, unconditional, *perturbed = of_stream
            text = ((weights - 1) * strength).to(own).view(-1, *[1] * (own.ndim - 1))
            terms = own + text * (own - unconditional)
            for name, other in zip(others, perturbed, strict=True):
                terms = terms + (STG if name == "stg" else MODALITY - 1) * (own - other)
            guided.append(_rescaled(terms, own))
        return join(*guided)

    def _perturbed(
        self, z_t: Tensor, t: Tensor, conditions: Conditions, network: Any, schedule: NoiseSchedule, **how: Any
    ) -> Tensor:
        return schedule.to_x0(self.ask(z_t, t, conditions, network, **how), z_t, t)

    def ask(self, z_t: Tensor, t: Any, conditions: Conditions, network: Any = None, **perturbed: Any) -> Tensor:
        """See `LTX2Teacher`."""
        raise NotImplementedError

    def _sound_tokens(self, latent_frames: int) -> int:
        raise NotImplementedError


def _rescaled(guided: Tensor, own: Tensor) -> Tensor:
    """Partly back to the deviation of what was not guided (arXiv 2305.08891, 3.4)."""
    axes = list(range(1, own.ndim))
    scale = own.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True)
    return guided * torch.lerp(torch.ones_like(scale), scale, RESCALE)
