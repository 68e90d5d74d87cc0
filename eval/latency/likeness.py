"""How like the clips of a tuned model are to its own, of the same prompt and noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fewstep.eval.latency.timing import FAILURES, PROMPT, TimedModel, one_sentence
from fewstep.teacher.training_loop import psnr_of_mse

FIGURES = (
    "clips against those before tuning, of the same prompt and noise: relative_error is |difference| / |clip|, psnr_db "
    "null where they are equal, max_difference of pixels in -1..1"
)


@torch.no_grad()
def example_clips(model: TimedModel, batch: int) -> Tensor:
    """Clips (B, 3, F, H, W) in -1..1 on the CPU, the same at every call."""
    sampler, prompts = model.sampler, [PROMPT] * batch
    if sampler.before is not None:
        return sampler.clips(prompts, range(batch)).float().cpu()
    conditions = model.conditions or sampler.conditions_of_any(prompts)
    return sampler.decode(sampler.sample(sampler.noise(range(batch)), conditions)).float().cpu()


class Likenesses:
    """Of several models, whose own clips are taken when it is made. A model that fails keeps why, as in `rounds`."""

    def __init__(self, models: Sequence[TimedModel], batch: int) -> None:
        self._models, self._batch = models, batch
        self._own = {model.name: video for model in models if (video := self._example(model)) is not None}

    def measure(self) -> dict[str, Mapping[str, float | None]]:
        """By the models' names, now that they are tuned."""
        result = dict[str, Mapping[str, float | None]]()
        for model in self._models:
            video = self._example(model)
            if video is not None:
                result[model.name] = likeness(video, self._own.pop(model.name))
        return result

    def _example(self, model: TimedModel) -> Tensor | None:
        try:
            return None if model.failure is not None else example_clips(model, self._batch)
        except FAILURES as error:
            model.failure = one_sentence(error)
            return None


def likeness(video: Tensor, own: Tensor) -> dict[str, float | None]:
    """Of clips in -1..1 to the model's own, (B, 3, F, H, W) each; a figure that is not finite is None."""
    error = video - own
    result = {
        "relative_error": float(error.norm() / own.norm().clamp_min(1e-12)),
        "psnr_db": float(psnr_of_mse(error.square().mean())),
        "max_difference": float(error.abs().max()),
    }
    return {name: value if math.isfinite(value) else None for name, value in result.items()}
