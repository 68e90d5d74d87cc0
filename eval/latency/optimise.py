"""Which ways to make clips faster pay on this machine: timed with and without, in turn, and clips compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.eval.latency.likeness import example_clips, likeness
from fewstep.eval.latency.switch import Switch
from fewstep.eval.latency.timing import FAILURES, PROMPT, TimedModel, one_sentence, time_pass
from fewstep.eval.latency.tuning import COMPILING, Tuning, check_tuning, encoders, option_text, tunable_decoders, tune
from fewstep.student.background import Background
from fewstep.teacher.loading import Clock

MAX_ERROR = 0.05  # relative error of a clip that is still the model's own: some 38 dB on the embedded teacher
FEWEST = 5  # repetitions: below, their spread says nothing
_GPU_ATTENTION = ("_native_cudnn", "flash", "_flash_3", "sage", "xformers")  # diffusers refuses what is not there
_CPU_ATTENTION = ("_native_math",)
_REASONS = {False: "faster by more than the spread", True: "more clips a minute, though none comes sooner"}


@dataclass(frozen=True)
class OptionTrial:
    """An option on top of those kept before it. Seconds are medians of a pass; `seconds_saved` is the median of pairs,
    with and without in turn, and `spread` their interquartile range: what slows down both does not count. Figures of
    likeness are to the model without any option. `why`: of the verdict, in words."""

    option: str
    kept: bool
    why: str
    seconds_without: float | None = None
    seconds_with: float | None = None
    seconds_saved: float | None = None
    spread: float | None = None
    relative_error: float | None = None
    psnr_db: float | None = None
    max_difference: float | None = None

    @property
    def summary(self) -> str:
        """In one line."""
        figures = ""
        if self.seconds_with and self.seconds_without:
            error = "not finite" if self.relative_error is None else f"{self.relative_error:.2g}"
            figures = (
                f" {self.seconds_without / self.seconds_with:.2f}x ({self.seconds_without:.3g} to "
                f"{self.seconds_with:.3g} s, saved {self.seconds_saved:.2g}, spread {self.spread:.2g}), error {error}:"
            )
        return f"{self.option}:{figures} {'kept' if self.kept else 'left out'}, {self.why}"


class Optimiser:
    """Tries options on one model, group after group of alternatives, and keeps of each the fastest that pays.

    An option pays when it saves more than the spread of that from pair to pair, and the clip made with all that is kept
    differs from the untuned model's by at most `max_error`. `model` is as it was before once `run` is over.
    """

    def __init__(
        self, model: TimedModel, batch: int, repetitions: int, clock: Clock, max_error: float = MAX_ERROR
    ) -> None:
        self._model, self._batch, self._clock = model, batch, clock
        self._repetitions, self._max_error = repetitions, max_error

    def run(self, on_tried: Callable[[OptionTrial], None] = lambda tried: None) -> tuple[Tuning, list[OptionTrial]]:
        """What is kept, and all that was tried. Raises what making a clip raises where no option is to blame."""
        own = example_clips(self._model, self._batch)
        kept, result, switches = Tuning(), list[OptionTrial](), list[Switch]()
        try:
            for group in candidates(self._model, self._batch):
                # alternatives are each timed on top of what is kept so far, and the fastest of them stays on
                tried = [self._try(name, value, own) for name, value in group]
                best = max((one for one in tried if one[0].kept), key=lambda one: _saved(one[0]), default=None)
                for (name, value), one in zip(group, tried, strict=True):
                    if one is best:
                        kept = replace(kept, **{name: value})
                        switches += _turned(one[1], on=True)
                    elif best is not None and one[0].kept:
                        one = replace(one[0], kept=False, why=f"{best[0].option} is faster"), []
                    result.append(one[0])
                    on_tried(one[0])
        finally:
            _turned(switches[::-1], on=False)
        return kept, result

    def _try(self, name: str, value: Any, own: Tensor) -> tuple[OptionTrial, list[Switch]]:
        """What came of an option, and what turns it on; it is off again."""
        option, alone = option_text(name, value), replace(Tuning(), **{name: value})
        model, switches = self._model, list[Switch]()
        try:
            check_tuning(alone, model.sampler.teacher.device, self._batch)
            background = Background(model.sampler) if alone.overlap else None
            switches = tune([model.sampler], alone)
            figures = likeness(example_clips(model, self._batch), own)  # compiles as well
            without, with_it = self._times(switches, background)
        except FAILURES as error:
            return OptionTrial(option, False, one_sentence(error)), switches
        finally:
            _turned(switches, on=False)
            model.background = model.waiting = None
        # seconds saved per pair of passes, with and without in turn: drift of the machine cancels
        pairs = np.subtract(without, with_it)
        before, after, saved = (float(np.median(some)) for some in (without, with_it, pairs))
        spread = float(np.subtract(*np.percentile(pairs, [75, 25])))
        tried = OptionTrial(option, True, _REASONS[alone.overlap], before, after, saved, spread, **figures)
        why = self._against(tried)
        return replace(tried, kept=not why, why=why or tried.why), switches

    def _times(self, switches: Sequence[Switch], background: Background | None) -> tuple[list[float], list[float]]:
        """Seconds of passes without and with the option, in turn, so that a busy moment affects both."""
        result: dict[bool, list[float]] = {False: [], True: []}
        for turn in range(-1, self._repetitions):
            for on in (turn % 2 == 0, turn % 2 == 1):  # the other one first the next time
                _turned(switches, on)
                self._model.background = background if on else None
                seconds = time_pass(self._model, [PROMPT] * self._batch, self._clock)
                if turn >= 0:
                    result[on].append(seconds.total)
        return result[False], result[True]

    def _against(self, tried: OptionTrial) -> str:
        """Why an option is left out; nothing where it pays."""
        if tried.relative_error is None:
            return "its clip is not finite"
        if tried.relative_error > self._max_error:
            return f"its clip differs by more than {self._max_error:g}"
        if _saved(tried) <= 0:
            return "it is no faster"
        return "" if _saved(tried) > (tried.spread or 0.0) else "the gain is within the spread"


def _saved(tried: OptionTrial) -> float:
    return tried.seconds_saved or 0.0


def _turned(switches: Sequence[Switch], on: bool) -> Sequence[Switch]:
    for switch in switches:
        if on:
            switch.on()
        else:
            switch.off()
    return switches


def candidates(model: TimedModel, batch: int) -> Iterator[list[tuple[str, Any]]]:
    """Options that this machine may have, alternatives together, in the order in which they are tried: compilation
    before 8-bit weights, which without it are dequantised at every use."""
    sampler = model.sampler
    on_gpu = sampler.teacher.device.type == "cuda"
    # on GPUs there are several attention kernels, of which no one is the fastest everywhere
    yield [("attention", name) for name in (_GPU_ATTENTION if on_gpu else _CPU_ATTENTION)]
    yield [("channels_last", True)]
    if tunable_decoders([sampler]):
        yield from ([(name, True)] for name in (("slicing", "tiling") if batch > 1 else ("tiling",)))
    yield [(name, True) for name in (COMPILING if on_gpu else COMPILING[:2])]
    for part in ("quantise", *(("quantise_text",) if model.conditions is None and encoders([sampler]) else ())):
        yield [(part, bits) for bits in ("int8", "fp8")]
    yield [("overlap", True)]
