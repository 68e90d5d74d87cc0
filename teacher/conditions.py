"""What a denoiser is conditioned on, as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Conditions:
    """Text embeddings (B, L, D), those of the unconditional branch if any, and what else a family needs.

    Every tensor has the batch first. Lengths L may differ between the two branches and between batches:
    shorter ones are padded with zeros where they meet.
    """

    positive: Tensor
    negative: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(x) for x in (self.positive, self.negative, *self.extras.values()) if x is not None}
        if len(lengths) != 1:
            raise ValueError(f"conditions of batch sizes {sorted(lengths)} do not go together: make them equal")

    def __len__(self) -> int:
        return len(self.positive)

    def __getitem__(self, index: slice | Sequence[int] | Tensor) -> Conditions:
        """A part of the batch, by a slice, a list of numbers, or a tensor of numbers or booleans."""
        return self._map(lambda x: x[index])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditions:
        """On another device, and floating-point tensors in another dtype."""
        return self._map(lambda x: x.to(device=device, dtype=dtype if x.is_floating_point() else None))

    def branches(self, guided: Tensor) -> Conditions:
        """The unconditional branch of the clips that are guided (B,) bool, then the conditional one of all."""
        if self.negative is None:
            raise ValueError("guidance other than 1 needs an unconditional branch: make conditions with one")
        return Conditions.join(
            [Conditions(self.negative, extras=self.extras)[guided], Conditions(self.positive, extras=self.extras)]
        )

    @staticmethod
    def join(parts: Sequence[Conditions]) -> Conditions:
        """One batch out of several, one behind the other."""
        negatives = [part.negative for part in parts if part.negative is not None]
        if len(negatives) not in (0, len(parts)):
            raise ValueError(
                "some of the conditions have an unconditional branch and some have not: join like with like"
            )
        return Conditions(
            _join([part.positive for part in parts]),
            _join(negatives) if negatives else None,
            {name: _join([part.extras[name] for part in parts]) for name in parts[0].extras},
        )

    def _map(self, function: Callable[[Tensor], Tensor]) -> Conditions:
        return Conditions(
            function(self.positive),
            None if self.negative is None else function(self.negative),
            {name: function(extra) for name, extra in self.extras.items()},
        )


def cut_padding(tokens: Tensor) -> Tensor:
    """(B, L, ...) zero-padded -> (B, l, ...), cut behind the batch's last token that is not all zero.

    One zero token is left if there was any: families take the last one for all that were padded.
    """
    used = (tokens != 0).flatten(2).any(dim=2).any(dim=0).nonzero()
    return tokens[:, : int(used[-1]) + 2 if len(used) else 1]


def _join(parts: list[Tensor]) -> Tensor:
    """Concatenates (B_i, L_i, ...), padding L with zeros to the longest."""
    if parts[0].ndim < 3:
        return torch.cat(parts)
    longest = max(part.shape[1] for part in parts)
    missing = ((part, longest - part.shape[1]) for part in parts)
    return torch.cat([functional.pad(part, (0, 0) * (part.ndim - 2) + (0, n)) for part, n in missing])
