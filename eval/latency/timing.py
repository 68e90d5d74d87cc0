"""Where the seconds of a clip go: text, denoising, decoding. Models take turns, so a noisy machine favours none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.eval.latency.peak_memory import PeakMemory
from fewstep.student.background import Background
from fewstep.student.sampler import Sampler
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.loading import Clock

PROMPT = "a red ball rolls slowly across a wooden table"
LATENCY_PARTS = ("text", "denoise", "decode")
FAILURES = (ValueError, OSError, RuntimeError, ImportError)  # of one model; RuntimeError: no memory, no kernel


class Seconds(NamedTuple):
    """What one pass took; text is None where it was left out. `total` is a clock of its own around all the rest. Where
    the clips of the pass before are decoded in the background, `decode` is what is left to wait for."""

    text: float | None
    denoise: float
    decode: float
    total: float


@dataclass
class TimedModel:
    """A model and what was measured of it so far; `conditions` are there where its text encoder is left out.

    `before`: what comes before it in a chain, whose seconds count with its own. `background` decodes the clips of the
    pass before, whose latents are `waiting`.
    """

    name: str
    sampler: Sampler
    conditions: Conditions | None = None
    seconds: list[Seconds] = field(default_factory=list)
    peak_gib: float = 0.0
    failure: str | None = None
    before: TimedModel | None = None
    background: Background | None = None
    waiting: Tensor | None = None

    @staticmethod
    def of(name: str, sampler: Sampler, batch: int, text: bool = True) -> TimedModel:
        """A model to be timed, with its text encoder or without."""
        before = None if sampler.before is None else TimedModel.of(name, sampler.before.sampler, batch, text)
        return TimedModel(name, sampler, None if text else pass_conditions(sampler, batch), before=before)

    def overlap(self) -> None:
        """From now on a pass decodes the clips of the pass before. Raises ValueError as `Background`."""
        self.background = Background(self.sampler)


def synchronised(device: torch.device) -> Clock:
    """A clock that first waits for the device."""

    def now() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    return now


@torch.no_grad()
def time_pass(model: TimedModel, prompts: Sequence[str], clock: Clock) -> Seconds:
    """Makes one batch of clips, a prompt each, through the three parts of sampling; of a chain all links do.

    No link waits for images: conditions on images of noise take as long. Of several passes in the background the
    first alone decodes its own clips as well.
    """
    earlier = Seconds(None, 0.0, 0.0, 0.0) if model.before is None else time_pass(model.before, prompts, clock)
    sampler, conditions = model.sampler, model.conditions
    start = clock()
    z = sampler.noise(range(len(prompts)))
    noise = clock()
    # overlapped: the clips of the pass before are decoded while these are denoised
    decoding = None
    if model.background is not None and model.waiting is not None:
        decoding = model.background.decode(model.waiting)
    # text: nothing where the embeddings were made beforehand
    if conditions is None:
        conditions = sampler.conditions_of_any(prompts)
    text = clock()
    try:
        latents = sampler.sample(z, conditions)
        denoised = clock() if decoding is None else _when_denoised(latents.device)
    finally:
        if decoding is not None:
            wait([decoding])  # also after an error: nothing else may use the autoencoder meanwhile
    # decoding: of these clips, or what is left of the earlier ones
    if decoding is None:
        sampler.decode(latents)
    else:
        decoding.result()
    if model.background is not None:
        model.waiting = latents
    decoded = clock()
    return Seconds(
        text=None if model.conditions is not None else text - noise + (earlier.text or 0.0),
        denoise=denoised - text + earlier.denoise,
        decode=decoded - denoised + earlier.decode,
        total=clock() - start + earlier.total,
    )


def _when_denoised(device: torch.device) -> float:
    """The time once latents are there, without a wait for clips that another stream decodes meanwhile."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
    return time.perf_counter()


def pass_conditions(sampler: Sampler, batch: int) -> Conditions:
    """What a pass is conditioned on, for a model whose text encoder is left out of the timing."""
    return sampler.conditions_of_any([PROMPT] * batch)


def rounds(
    models: Sequence[TimedModel],
    batch: int,
    repetitions: int,
    warmup: int,
    clock: Clock,
    memory: PeakMemory,
    on_pass: Callable[[str], None] = lambda name: None,
) -> Iterator[int]:
    """Measures all models in turn, again and again; yields how many measured rounds are done.

    The last of the `warmup` rounds (at least 1) is watched for peak memory instead of timed. A model that fails keeps
    the reason in one sentence and is left out from then on. `on_pass` is called after every pass.
    """
    prompts = [PROMPT] * batch
    # models take turns, so that what slows the machine for a while slows all of them
    for turn in range(1 - warmup, repetitions + 1):
        for model in models:
            if model.failure is None:
                try:
                    with memory.watching(model.sampler, watched=turn == 0) as peak:
                        seconds = time_pass(model, prompts, clock)
                except FAILURES as error:
                    model.failure = one_sentence(error)
                else:
                    if turn > 0:
                        model.seconds.append(seconds)
                    elif turn == 0:
                        model.peak_gib = peak.gib
                on_pass(model.name)
        if turn > 0:
            yield turn


def latency(seconds: Sequence[Seconds]) -> dict[str, Any]:
    """Median and 95th percentile of every part and of the whole, and by how much the parts' medians miss the whole's.

    A part that was left out has None.
    """
    figures: dict[str, Any] = {}
    # medians, which one slow pass does not move; the 95th percentile shows such passes
    for part in (*LATENCY_PARTS, "total"):
        values = [getattr(measured, part) for measured in seconds]
        left_out = None in values
        for name, percent in ((f"{part}_seconds", 50), (f"{part}_seconds_p95", 95)):
            figures[name] = None if left_out else float(np.percentile(values, percent))
    parts = sum(figures[f"{part}_seconds"] or 0.0 for part in LATENCY_PARTS)
    return figures | {"split_gap": abs(parts / figures["total_seconds"] - 1)}


def one_sentence(error: BaseException) -> str:
    """The first line of an error that may go on for pages."""
    if "No working C++ compiler" in str(error):
        return "torch.compile found no C++ compiler: install g++ or clang, or leave --compile out"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
