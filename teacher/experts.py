"""A denoiser of two networks, each in charge of its own part of time: Wan 2.2 A14B's experts (arXiv 2503.20314)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.teacher.bases import Bases
from fewstep.teacher.schedule import Time

HIGH, LOW = "high", "low"  # noise


class Experts(nn.Module):
    """`high` is in charge at times from `boundary` on, `low` below it; a time that is the boundary is the high one's.

    It stands where a single network may stand: as `Teacher.denoiser` and as `network=` of the teacher's methods, which
    ask each expert about the clips at its own times. Raises ValueError for a boundary outside 0..1 or at 0, with which
    one of the two would never be asked.
    """

    def __init__(self, high: nn.Module, low: nn.Module, boundary: float) -> None:
        super().__init__()
        if not 0 < boundary <= 1:
            raise ValueError(
                f"the experts' boundary is {boundary:g}; it must be a time above 0 (data) and up to 1 (noise), such as "
                "0.875"
            )
        self.high = high
        self.low = low
        self.boundary = boundary

    def is_high(self, t: Time) -> Tensor:
        """Whether the high expert is in charge; bool, () or (B,), on the CPU."""
        time = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        return time.round(decimals=9) >= round(
            self.boundary, 9
        )  # a time that is the boundary but for rounding is the boundary

    def names_at(self, times: Tensor) -> list[str]:
        """The name of the expert in charge at each of these times (n,)."""
        return [HIGH if high else LOW for high in self.is_high(times).tolist()]

    def at(self, t: Time) -> nn.Module:
        """The expert in charge at t. Raises ValueError for times on both sides of the boundary."""
        high = self.is_high(t)
        if bool(high.any()) and not bool(high.all()):
            raise ValueError(
                f"times on both sides of {self.boundary:g} belong to two experts: ask for one side at a time"
            )
        return self.high if bool(high.all()) else self.low

    def shares(self, times: Tensor) -> Iterator[tuple[str, nn.Module, Tensor]]:
        """Name, expert and rows, bool (B,), of each that is in charge of some of a batch's times (B,)."""
        high = self.is_high(times)
        for name, expert, rows in ((HIGH, self.high, high), (LOW, self.low, ~high)):
            if bool(rows.any()):
                yield name, expert, rows


def parts_of(denoiser: nn.Module) -> dict[str, Any]:
    """The networks that a denoiser is made of, by name: its experts, or itself under the empty name.

    The names are those of folders next to one another, so that a single network's is the folder itself. Of base models
    around one part it is the first, which alone is trained, adapted and saved.
    """
    if isinstance(denoiser, Experts):
        return {HIGH: denoiser.high, LOW: denoiser.low}
    return {"": denoiser.first if isinstance(denoiser, Bases) else denoiser}


def with_parts(denoiser: nn.Module, parts: Mapping[str, nn.Module]) -> nn.Module:
    """A denoiser of the same make out of other networks, named as `parts_of` names them."""
    if isinstance(denoiser, Experts):
        return Experts(parts[HIGH], parts[LOW], denoiser.boundary)
    return denoiser.around(parts[""]) if isinstance(denoiser, Bases) else parts[""]


def every_network(denoiser: nn.Module) -> list[Any]:
    """All networks that a denoiser asks: also base models whose part in common is another's."""
    return list(denoiser.networks) if isinstance(denoiser, Bases) else list(parts_of(denoiser).values())


def used_parts(denoiser: nn.Module, times: Tensor) -> dict[str, Any]:
    """Those of its parts that are in charge at one of these times (n,)."""
    named = denoiser.names_at(times) if isinstance(denoiser, Experts) else [""]
    return {name: part for name, part in parts_of(denoiser).items() if name in named}


def join_rows(parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """A batch out of its parts, each with its rows, bool (B,); gradients flow to every part."""
    if len(parts) == 1:
        return parts[0][1]
    (rows, first), *_ = parts
    whole = first.new_empty(len(rows), *first.shape[1:])
    for rows, part in parts:
        whole[rows] = part
    return whole
