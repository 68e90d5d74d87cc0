"""Whether a student is healthy as it trains: bands for its measurements, and what happens outside of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, NonNegativeFloat

from fewstep.distill.objectives.base import Fraction, Settings
from fewstep.teacher.limited import NumSteps

_PATIENCE = 2  # measurements in a row outside a band, but for the last of a stage, which counts alone


def _in_order(band: tuple[float, float]) -> tuple[float, float]:
    if not band[0] < band[1]:
        raise ValueError(f"[{band[0]:g}, {band[1]:g}] is not a band: the first number must be below the second")
    return band


HealthBand = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(_in_order)]

_SENTENCES = {
    "motion": "its clips move {} times as much as its supervisor's",
    "contrast": "its clips have {} times the contrast of its supervisor's",
    "colour": "the mean colours of its clips are {} standard deviations from its supervisor's",
    "diversity": "its clips differ from one another {} times as much as its supervisor's",
    "accuracy_at_most": "its discriminator is right in {} of pairs at best, where 0.5 is chance: it cannot tell the "
    "student from its supervisor",
    "accuracy_at_least": "its discriminator is right in {} of pairs at every transition: the student never fools it",
}


class Watch(Settings):
    """What a student must look like while it trains. All but `accuracy` are measured on some clips with noise of their
    own, the EMA against its supervisor, from the same noise. Null: any value is allowed."""

    every: NumSteps = 25
    """Student steps between two measurements. Stages of fewer steps are measured at their end, and not judged."""
    begins: Fraction = 0.25
    """The fraction of a stage's steps before which nothing is judged: students do not start healthy."""
    on_trigger: Literal["stop", "roll_back", "warn"] = "stop"
    """What happens after two measurements in a row outside a band, or if the stage's last one is outside: stop ends
    the run with an error message, roll_back returns to the stage's last healthy checkpoint and continues at half its
    learning rates (at most three times), and warn prints a warning."""
    motion: HealthBand | None = (0.75, 1.4)
    """Mean change between frames, as a multiple of the supervisor's: far below 1 is a student that freezes."""
    contrast: HealthBand | None = (0.8, 1.3)
    """Standard deviation of latents, as a multiple of the supervisor's: above, clips burn out; below, they fade."""
    colour: HealthBand | None = (0.0, 0.3)
    """How far the means of the latents' channels are from the supervisor's, in its standard deviations."""
    diversity: HealthBand | None = (0.7, 1.5)
    """How much clips of other noise and prompts differ, as a multiple of the supervisor's: low is collapse."""
    accuracy: HealthBand | None = (0.51, 0.9999)
    """The discriminator's, a running average over its steps. Below the band at every transition it cannot tell the
    student from its supervisor; above the band at every one, the student never fools it."""

    def wrong(self, figures: Mapping[str, float]) -> list[str]:
        """Sentences about figures that are outside their bands, or not finite."""
        sentences = []
        for name, template in _SENTENCES.items():
            setting, value = name.partition("_")[0], figures.get(name)
            band: tuple[float, float] | None = getattr(self, setting)
            # not measured here, such as an accuracy where there is no discriminator
            if value is None:
                continue
            if not math.isfinite(value):
                return ["its clips are not finite: a weight, or its EMA, is infinite or not a number"]
            if band is not None and _outside(name, value, band):
                allowed = f"watch.{setting} allows {band[0]:g} to {band[1]:g}"
                sentences.append(f"{template.format(f'{value:.3g}')}, and {allowed}")
        return sentences


def _outside(name: str, value: float, band: tuple[float, float]) -> bool:
    """Whether a figure leaves its band; the highest of several can only fall below it, the lowest rise above it."""
    below, above = value < band[0], value > band[1]
    return (below and not name.endswith("at_least")) or (above and not name.endswith("at_most"))


class Watcher:
    """Measures a student at regular steps of its stage, and says when it is not healthy.

    measure: figures by name, such as `MotionAndDiversity.measure`; of all processes the same.
    """

    def __init__(self, settings: Watch, stage_steps: int, measure: Callable[[], Mapping[str, float]]) -> None:
        self.settings, self.measure = settings, measure
        self._steps, self.suspect, self.last = stage_steps, 0, 0

    def due(self, step: int) -> bool:
        """Whether something is measured after this step: never in a stage that is too short to be judged."""
        every = self.settings.every
        return self._steps >= every and step > 0 and (step % every == 0 or step == self._steps)

    def judge(self, step: int, figures: Mapping[str, float]) -> list[str]:
        """What is wrong after `step` steps, in sentences; none of a single measurement before the stage's last."""
        wrong = self.settings.wrong(figures) if self._judged(step) else []
        # a resume may begin with the measurement that its checkpoint has counted already
        self.suspect = max(1, self.suspect + (step != self.last)) if wrong else 0
        self.last = step
        return wrong if self.suspect >= _PATIENCE or step == self._steps else []

    @property
    def healthy(self) -> bool:
        """Whether nothing was wrong in the last measurement."""
        return self.suspect == 0

    def _judged(self, step: int) -> bool:
        return step >= self.settings.begins * self._steps
