"""How noisy the discriminator sees clips: what it judges are noised endpoints (SF-V, arXiv 2406.04324; LADD)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, FiniteFloat, NonNegativeFloat, model_validator
from torch import Tensor

from fewstep.distill.draws import Draws
from fewstep.distill.objectives.base import Settings
from fewstep.teacher.limited import Amount
from fewstep.teacher.schedule import NoiseSchedule

Level = Annotated[float, Field(ge=0, le=1)]  # sigma / (alpha + sigma): 0 is data, 1 is noise, in every family


class UniformNoise(Settings):
    """Any level between two."""

    kind: Literal["uniform"] = "uniform"
    """Any level between two."""
    low: Level = 0.0
    """The least, as sigma / (alpha + sigma)."""
    high: Level = 0.7
    """The most, as sigma / (alpha + sigma)."""

    @model_validator(mode="after")
    def _in_order(self) -> UniformNoise:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g} and high is {self.high:g}: low must not be above high")
        return self

    def draw(self, count: int, progress: float, generator: torch.Generator) -> Tensor:
        """Levels (count,), float64."""
        return torch.empty(count, dtype=torch.float64).uniform_(self.low, self.high, generator=generator)


class NoiseLevels(Settings):
    """A few levels, as arXiv 2402.13929 has them for one and two steps: first equally often, then by weight."""

    kind: Literal["levels"] = "levels"
    """A few levels."""
    levels: Annotated[tuple[Level, ...], Field(min_length=1)] = (0.01, 0.25, 0.5, 0.75)
    """Each as sigma / (alpha + sigma): of a flow model its times, of others not."""
    weights: tuple[NonNegativeFloat, ...] = (5.0, 1.0, 1.0, 1.0)
    """How often each is drawn, in proportion."""
    uniform_until: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The fraction of the stage up to which all are drawn equally often."""

    @model_validator(mode="after")
    def _weights_fit(self) -> NoiseLevels:
        if len(self.weights) != len(self.levels) or not any(self.weights):
            raise ValueError(
                f"{len(self.weights)} weights for {len(self.levels)} levels: give one for each, and not only zeros"
            )
        return self

    def draw(self, count: int, progress: float, generator: torch.Generator) -> Tensor:
        """Levels (count,), float64, at this fraction of the stage."""
        # late in the stage mostly little noise, where details are decided (arXiv 2402.13929)
        weights = torch.tensor(self.weights if progress >= self.uniform_until else [1.0] * len(self.levels))
        drawn = torch.multinomial(weights, count, replacement=True, generator=generator)
        return torch.tensor(self.levels, dtype=torch.float64)[drawn]


class LogitNormalNoise(Settings):
    """Levels whose logits are normal, as LADD draws them (arXiv 2403.12015)."""

    kind: Literal["logit_normal"] = "logit_normal"
    """Levels whose logits are normal."""
    mean: FiniteFloat = 0.0
    """Of log(level / (1 - level)): 0 is the middle, above 0 is noisier."""
    std: Amount = 1.0
    """Of the same; LADD's is 1."""

    def draw(self, count: int, progress: float, generator: torch.Generator) -> Tensor:
        """Levels (count,), float64."""
        logits = self.mean + self.std * torch.randn(count, generator=generator, dtype=torch.float64)
        return logits.sigmoid()


AnyNoise = UniformNoise | NoiseLevels | LogitNormalNoise
Noise = Annotated[AnyNoise, Field(discriminator="kind")]


def draw_times(schedule: NoiseSchedule, noise: AnyNoise, s: Tensor, progress: float, draws: Draws) -> Tensor:
    """To which times (B,) endpoints at s (B,) are noised: of the drawn level, or s where that is noisier already."""
    # noise can only be added: an endpoint z_s that is noisier than the drawn level is judged as it is
    levels = draws.each(lambda generator: noise.draw(1, progress, generator))
    return torch.maximum(s, schedule.time_of_level(levels))
