"""Classifier-free guidance, everywhere or at some noise levels only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from torch import Tensor

from fewstep.teacher.schedule import NoiseSchedule, Time

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TEXT = re.compile(rf"({_NUMBER}|nan|[-+]?inf)(?:@({_NUMBER})-({_NUMBER}))?")


@dataclass(frozen=True)
class Guidance:
    """u + weight (c - u) at noise levels above `low` and up to `high`, and c alone at all others.

    A weight of 1 is none. Levels are those of `NoiseSchedule.level`, 0 (data) to 1 (noise), so that they mean the same
    in every family. Guided at the highest levels, clips of one prompt grow alike; at the lowest it changes next to
    nothing (arXiv 2404.07724, Eq. 5). Written as `5`, or `5@0.3-0.93` with levels. Raises ValueError for a weight that
    is not finite and levels that are no interval in 0..1.
    """

    weight: float = 1.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(f"guidance is {self.weight}; it must be a finite number, and 1 means none")
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"guidance from noise level {self.low:g} to {self.high:g} is no interval: levels go from 0 (data) to 1 "
                "(noise), as in 5@0.3-0.93"
            )

    @staticmethod
    def of(value: Guidance | float | str) -> Guidance:
        """From a number, or from a text such as `5` or `5@0.3-0.93`. Raises ValueError for anything else."""
        if isinstance(value, Guidance):
            return value
        if isinstance(value, float | int) and not isinstance(value, bool):
            return Guidance(float(value))
        match = _TEXT.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(
                f"guidance is {value!r}; write a number, where 1 means none, or one with its noise levels, as in "
                "5@0.3-0.93"
            )
        return Guidance(*(float(part) for part in match.groups() if part is not None))

    @property
    def guides(self) -> bool:
        """Whether it changes anything."""
        return self.weight != 1

    def applies(self, schedule: NoiseSchedule, t: Time) -> Tensor:
        """Where it does: bool, () or (B,), on the CPU."""
        if not self.guides:
            return torch.zeros_like(torch.as_tensor(t), dtype=torch.bool, device="cpu")
        level = schedule.level(t).round(decimals=9)  # a level that is an edge but for rounding is that edge
        return (level > self.low) & (level <= self.high)

    def evaluations(self, schedule: NoiseSchedule, grid: Tensor) -> int:
        """Forwards of one clip along the grid's steps (n + 1,): guided ones count twice."""
        return len(grid) - 1 + int(self.applies(schedule, grid[:-1]).sum())

    def plain(self) -> float | str:
        """As JSON and YAML have it: a number, or a text where it has levels."""
        everywhere = (self.low, self.high) == (0, 1)
        return self.weight if everywhere else f"{self.weight:.12g}@{self.low:.12g}-{self.high:.12g}"

    def __str__(self) -> str:
        plain = self.plain()
        return plain if isinstance(plain, str) else f"{plain:g}"


def _to_plain(guidance: Any) -> float | str:
    # a schema shows a field's default before it is validated
    return Guidance.of(guidance).plain()


# of pydantic's models
GuidanceField = Annotated[
    Guidance,
    BeforeValidator(Guidance.of),
    PlainSerializer(_to_plain),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[-+.\deE]+(@[.\d]+-[.\d]+)?$"}]}),
]
