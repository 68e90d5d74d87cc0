"""Classifier-free guidance, everywhere, at some noise levels only, or of another weight at others."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema
from torch import Tensor

from fewstep.teacher.limits import MOST_GUIDANCE
from fewstep.teacher.schedule import NoiseSchedule, Time

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TEXT = re.compile(rf"({_NUMBER}|nan|[-+]?inf)(?:@({_NUMBER})-({_NUMBER}))?")


@dataclass(frozen=True)
class Guidance:
    """u + weight (c - u) at noise levels above `low` and up to `high`, and c alone at all others.

    A weight of 1 is none. Levels are those of `NoiseSchedule.level`, 0 (data) to 1 (noise), so that they mean the same
    in every family. Guided at the highest levels, clips of one prompt grow alike; at the lowest it changes next to
    nothing (arXiv 2404.07724, Eq. 5). Written as `5`, or `5@0.3-0.93` with levels.

    `others` are of other levels: `4@0.875-1,3@0-0.875` guides each of two experts by a weight of its own. A level that
    is the edge of two intervals is the upper one's, as a time that is the boundary of two experts is the high one's.
    Raises ValueError for a weight that is not finite, levels that are no interval in 0..1, and intervals that overlap.
    """

    weight: float = 1.0
    low: float = 0.0
    high: float = 1.0
    others: tuple[Guidance, ...] = ()  # in the order of their levels, all below this one's

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise ValueError(f"guidance is {self.weight}; it must be a finite number, and 1 means none")
        if abs(self.weight) > MOST_GUIDANCE:
            raise ValueError(
                f"guidance is {self.weight:g}; it must lie between -{MOST_GUIDANCE:g} and {MOST_GUIDANCE:g}: 1 means "
                "none, and 3 to 8 are usual"
            )
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"guidance from noise level {self.low:g} to {self.high:g} is not an interval: levels go from 0 (data) "
                "to 1 (noise), as in 5@0.3-0.93"
            )
        # the intervals are in order, so that only neighbours can overlap
        for upper, lower in pairwise(self._intervals):
            if upper.low < lower.high:
                raise ValueError(
                    f"guidance {upper._as_text} and {lower._as_text} overlap: give each noise level one weight, as in "
                    "4@0.875-1,3@0-0.875"
                )

    @staticmethod
    def of(value: Guidance | float | str | Sequence[float | str]) -> Guidance:
        """From a number, a text such as `5` or `5@0.3-0.93`, several of those with commas between, or a list of them.

        Raises ValueError for anything else.
        """
        if isinstance(value, Guidance):
            return value
        if isinstance(value, float | int) and not isinstance(value, bool):
            return Guidance(float(value))
        texts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
        # the uppermost interval is the one that holds the others
        intervals = sorted((Guidance._one(text) for text in texts), key=lambda interval: -interval.high)
        if not intervals:
            raise ValueError("guidance is an empty list: write a number, where 1 means none")
        return replace(intervals[0], others=tuple(intervals[1:]))

    @staticmethod
    def _one(value: object) -> Guidance:
        match = _TEXT.fullmatch(str(value).strip())
        if match is None:
            raise ValueError(
                f"guidance is {value!r}; write a number, where 1 means none, or one with its noise levels, as in "
                "5@0.3-0.93, or several of these with commas between"
            )
        weight, low, high = match.groups()
        return Guidance(float(weight)) if low is None else Guidance(float(weight), float(low), float(high))

    @property
    def guides(self) -> bool:
        """Whether it changes anything."""
        return any(interval.weight != 1 for interval in self._intervals)

    def applies(self, schedule: NoiseSchedule, t: Time) -> Tensor:
        """Where it does: bool, () or (B,), on the CPU."""
        return self.weights(schedule, t) != 1

    def weights(self, schedule: NoiseSchedule, t: Time) -> Tensor:
        """Its weight at t, 1 where it is none; float64, () or (B,), on the CPU."""
        of_times = torch.ones_like(torch.as_tensor(t), dtype=torch.float64, device="cpu")
        if not self.guides:
            return of_times
        level = schedule.level(t).round(decimals=9)  # a level that is an edge but for rounding is that edge
        edges = {interval.high for interval in self._intervals}
        for interval in reversed(self._intervals):  # the upper of two that meet comes last
            inside = (level > interval.low) & (level <= interval.high) | (
                level == interval.low if interval.low in edges else False
            )
            of_times = torch.where(inside, interval.weight, of_times)
        return of_times

    @property
    def _intervals(self) -> tuple[Guidance, ...]:
        return (self, *self.others)

    def evaluations(self, schedule: NoiseSchedule, grid: Tensor) -> int:
        """Forwards of one clip along the grid's steps (n + 1,): guided ones count twice, or as often as the schedule's
        pipeline asks (`guided_evaluations`)."""
        return len(grid) - 1 + (schedule.guided_evaluations - 1) * int(self.applies(schedule, grid[:-1]).sum())

    def plain(self) -> float | str:
        """As JSON and YAML have it: a number, or a text where it has levels."""
        everywhere = (self.low, self.high) == (0, 1)
        return self.weight if everywhere else ",".join(interval._as_text for interval in self._intervals)

    @property
    def _as_text(self) -> str:
        return f"{self.weight:.12g}@{self.low:.12g}-{self.high:.12g}"

    def __str__(self) -> str:
        plain = self.plain()
        return plain if isinstance(plain, str) else f"{plain:g}"


def _to_plain(guidance: Any) -> float | str:
    # a schema shows a field's default before it is validated
    return Guidance.of(guidance).plain()


_INTERVAL = r"[-+.\deE]+(@[.\d]+-[.\d]+)?"
_ONE_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": rf"^{_INTERVAL}( *, *{_INTERVAL})*$"}]
}

# of pydantic's models
GuidanceField = Annotated[
    Guidance,
    BeforeValidator(Guidance.of),
    PlainSerializer(_to_plain),
    WithJsonSchema({"anyOf": [_ONE_SCHEMA, {"type": "array", "items": _ONE_SCHEMA, "minItems": 1}]}),
]
