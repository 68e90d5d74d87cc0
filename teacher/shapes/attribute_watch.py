"""Watches, while a denoiser trains, whether it follows captions, and whether its clips show what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from fewstep.teacher.schedule import NoiseSchedule
from fewstep.teacher.shapes.captions import agreement, example, rates, write_caption
from fewstep.teacher.shapes.judge import Judge
from fewstep.teacher.shapes.latents import to_tensor
from fewstep.teacher.shapes.linear_code import LinearCode
from fewstep.teacher.shapes.text import encode_text, make_tokenizer, tokenize
from fewstep.teacher.shapes.world import ATTRIBUTES, Scene, render_scene

_STEPS, _GUIDANCE, _SHIFT = 20, 5.0, 5.0
_EFFECT_TIME = 0.9


def attribute_watch(
    transformer: WanTransformer3DModel,
    encoder: UMT5EncoderModel,
    code: LinearCode,
    judge: Judge | None,
    clips: int,
    tokens: int,
) -> Callable[[int], Mapping[str, float]]:
    """A `watch` for `train_network`: caption effects and, with a judge, attribute accuracy on `clips` held-out prompts.

    The linear code decodes: its clips are soft, but the judge reads them as well as real ones, and no autoencoder is
    needed.
    """
    # captions, noise and seeds stay the same at every call, so that figures of two steps differ by the weights alone
    prompts = [example("held-out", 0, i)[1] for i in range(clips)]
    ids, mask = tokenize(make_tokenizer(), ["", *prompts], tokens)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(clips, len(code.scale), 5, 8, 8, generator=generator)

    @torch.no_grad()
    def watch(step: int) -> Mapping[str, float]:
        effects = caption_effects(transformer, encoder, code, clips, tokens)
        if judge is None:
            return effects
        device = next(transformer.parameters()).device
        text = encode_text(encoder, ids.to(device), mask.to(device))
        # clips are made with guidance, as they will be sampled
        video = code.decode(_sample(transformer, text, noise.to(device)).cpu()).clamp(-1, 1)
        shown, _ = judge.read(video)
        right = [agreement(values, prompt) for values, prompt in zip(shown, prompts, strict=True)]
        rates_of_attributes = {f"accuracy {name}": rate for name, rate in rates(right).items()}
        rates_of_attributes |= {"accuracy": sum(all(r.values()) for r in right) / clips}
        return rates_of_attributes | effects

    return watch


def _sample(transformer: WanTransformer3DModel, text: Tensor, z: Tensor) -> Tensor:
    """Guided sampling from z; text (1 + B, L, D) begins with the empty prompt's."""
    schedule = NoiseSchedule("flow", "flow", shift=_SHIFT)
    # both branches of classifier-free guidance in one batch: the empty caption, then the clip's own
    both = torch.cat([text[:1].expand(len(z), -1, -1), text[1:]])
    for t, s in pairwise(schedule.grid(_STEPS)):
        timestep = schedule.timestep(t).float().to(z.device).expand(2 * len(z))
        u, c = transformer(torch.cat([z, z]), timestep, both, return_dict=False)[0].chunk(2)
        z = schedule.step(z, schedule.to_x0(torch.lerp(u, c, _GUIDANCE), z, t), t, s)
    return z


@torch.no_grad()
def caption_effects(
    transformer: WanTransformer3DModel, encoder: UMT5EncoderModel, code: LinearCode, clips: int, tokens: int
) -> dict[str, float]:
    """How much the loss at t = 0.9 rises when a full caption lies about one attribute: 0 means the word is not heard.

    Shows after some hundred steps what accuracy shows after thousands.
    """
    device = next(transformer.parameters()).device
    # one noise and one time for all captions: what a lie adds to the loss is the caption's doing
    scenes = [example("held-out", 1, i)[0] for i in range(clips)]
    x0 = code.encode(to_tensor([render_scene(scene) for scene in scenes])).to(device)
    eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(device)
    schedule = NoiseSchedule("flow", "flow", shift=_SHIFT)
    timestep = schedule.timestep(_EFFECT_TIME).float().to(device).expand(clips)
    z_t, tokenizer = schedule.add_noise(x0, eps, _EFFECT_TIME), make_tokenizer()

    def loss(scenes: list[Scene]) -> float:
        captions = [write_caption(scene, np.random.default_rng(i), mention_rate=1.0) for i, scene in enumerate(scenes)]
        ids, mask = tokenize(tokenizer, captions, tokens)
        text = encode_text(encoder, ids.to(device), mask.to(device))
        return float((transformer(z_t, timestep, text, return_dict=False)[0] - (eps - x0)).square().mean())

    # per attribute, the same clips under captions that are wrong in it alone
    truth = loss(scenes)
    return {f"effect {name}": loss([_lie(scene, name) for scene in scenes]) - truth for name in ATTRIBUTES}


def _lie(scene: Scene, name: str) -> Scene:
    """The scene with the next value of one attribute."""
    values = ATTRIBUTES[name]
    lie: dict[str, Any] = {name: values[(values.index(getattr(scene, name)) + 1) % len(values)]}
    return replace(scene, **lie)
