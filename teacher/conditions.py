"""What a denoiser is conditioned on, as one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

EMBEDDINGS = "embeddings"  # of the text, (B, L, D): what nearly every family has
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Conditions:
    """What each branch of classifier-free guidance sees, by names that only the family knows.

    positive: what follows from the prompts, such as embeddings (B, L, D), masks (B, L) and pooled vectors (B, D).
    negative: the same of the unconditional branch, if there is one. shared: what both branches see, such as the latents
    of a given image. Every tensor has the batch first.

    padded: names in positive and negative whose second dimension counts tokens. These lengths may differ between the
    branches and between batches: shorter ones are padded with zeros where they meet. Nothing else is padded or cut.
    """

    positive: Tensors
    negative: Tensors | None = None
    shared: Tensors = field(default_factory=dict)
    padded: frozenset[str] = frozenset({EMBEDDINGS})

    def __post_init__(self) -> None:
        lengths = {len(x) for x in (*self.positive.values(), *(self.negative or {}).values(), *self.shared.values())}
        if len(lengths) != 1:
            raise ValueError(f"conditions of batch sizes {sorted(lengths)} do not go together: make them equal")
        if self.negative is not None and self.negative.keys() != self.positive.keys():
            raise ValueError(
                f"the unconditional branch has {sorted(self.negative)}, the conditional one {sorted(self.positive)}: "
                "make both with the same names"
            )

    def __len__(self) -> int:
        return len(next(iter((*self.positive.values(), *self.shared.values()))))

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
        unconditional = Conditions(self.negative, shared=self.shared, padded=self.padded)[guided]
        return Conditions.join([unconditional, Conditions(self.positive, shared=self.shared, padded=self.padded)])

    @staticmethod
    def join(parts: Sequence[Conditions]) -> Conditions:
        """One batch out of several, one behind the other. Raises ValueError when they do not hold the same names."""
        # an unconditional branch cannot be made up for parts without one: all have it, or none
        first = parts[0]
        negatives = [part.negative for part in parts if part.negative is not None]
        if len(negatives) not in (0, len(parts)):
            raise ValueError(
                "some of the conditions have an unconditional branch and some have not: join like with like"
            )
        for part in parts:
            if part.positive.keys() != first.positive.keys() or part.shared.keys() != first.shared.keys():
                raise ValueError(
                    f"conditions with {sorted({*part.positive, *part.shared})} and with "
                    f"{sorted({*first.positive, *first.shared})} do not go together: join like with like"
                )
        # texts are padded to the longest of all parts; what both branches share has no padding
        return Conditions(
            _join([part.positive for part in parts], first.padded),
            _join(negatives, first.padded) if negatives else None,
            _join([part.shared for part in parts], frozenset()),
            first.padded,
        )

    def equal_rows(self, other: Conditions) -> Tensor:
        """Where a clip's prompt, and all that is given with it, are those of the other batch's at the same place: (B,)
        bool. Guidance's unconditional branch is not looked at."""
        both = Conditions.join([Conditions(x.positive, shared=x.shared, padded=x.padded) for x in (self, other)])
        halves = [tensor.flatten(1).chunk(2) for tensor in (*both.positive.values(), *both.shared.values())]
        return torch.stack([(own == its).all(dim=1) for own, its in halves]).all(dim=0)

    def row(self, n: int) -> Conditions:
        """Sample n alone, cut behind its own padding. Tensors that were equally long stay so: a text and its mask."""
        single = self[n : n + 1]
        positive, negative = (
            None if branch is None else _cut(branch, self.padded) for branch in (single.positive, single.negative)
        )
        return Conditions(positive or {}, negative, single.shared, self.padded)

    def shortened(self, num_tokens: int) -> Conditions:
        """Cut after this many tokens."""
        positive, negative = (
            None if branch is None else {n: x[:, :num_tokens] if n in self.padded else x for n, x in branch.items()}
            for branch in (self.positive, self.negative)
        )
        return Conditions(positive or {}, negative, self.shared, self.padded)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Conditions:
        positive, negative, shared = (
            None if branch is None else {name: function(tensor) for name, tensor in branch.items()}
            for branch in (self.positive, self.negative, self.shared)
        )
        return Conditions(positive or {}, negative, shared or {}, self.padded)


def cut_padding(tokens: Tensor) -> Tensor:
    """(B, L, ...) zero-padded -> (B, l, ...), cut behind the batch's last token that is not all zero.

    One zero token is left if there was any: families take the last one for all that were padded.
    """
    used = (tokens.flatten(2) if tokens.ndim > 2 else tokens[..., None]).ne(0).any(dim=2).any(dim=0).nonzero()
    return tokens[:, : int(used[-1]) + 2 if len(used) else 1]


def _cut(branch: Tensors, padded: frozenset[str]) -> dict[str, Tensor]:
    lengths: dict[int, int] = {}  # length with padding -> without
    for name in padded & branch.keys():
        tokens = branch[name]
        lengths[tokens.shape[1]] = max(lengths.get(tokens.shape[1], 0), cut_padding(tokens).shape[1])
    return {n: x[:, : lengths[x.shape[1]]] if n in padded else x for n, x in branch.items()}


def _join(parts: Sequence[Tensors], padded: frozenset[str]) -> dict[str, Tensor]:
    return {
        name: _padded([part[name] for part in parts]) if name in padded else torch.cat([part[name] for part in parts])
        for name in parts[0]
    }


def _padded(parts: list[Tensor]) -> Tensor:
    """Concatenates (B_i, L_i, ...), padding L with zeros to the longest."""
    longest = max(part.shape[1] for part in parts)
    missing = ((part, longest - part.shape[1]) for part in parts)
    return torch.cat([functional.pad(part, (0, 0) * (part.ndim - 2) + (0, n)) for part, n in missing])
