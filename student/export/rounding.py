"""Which layers become 8-bit: as many as leave the latents within a format's tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fewstep.student.export.base import PROBE_PROMPTS, PROBE_SEEDS
from fewstep.student.export.comparison import small_size
from fewstep.student.few_bits import block_linears
from fewstep.student.loading import Student
from fewstep.teacher.precision import stays_exact
from fewstep.teacher.source import VideoSize, size_text

Rounded = Callable[[Tensor], Tensor]  # a layer's weight (out, in) -> what is left of it in the format
ROOM = 0.8  # of the tolerance; the rest is for the arithmetic's own rounding
_MOST_TRIES = 64
_OTHER_SEEDS = (2, 3)  # the layers are chosen on the noise that the finished export is compared on: these tell the rest


@dataclass(frozen=True)
class ChosenLayers:
    """Names of the layers to round, and what part of all the network's weights is in them.

    other_error: the relative error of latents from noise that the choice was not made on. size: of the clips that it
    was made on, where they are smaller than the student's own.
    """

    names: tuple[str, ...]
    share: float
    num_layers: int  # that could have been rounded
    other_error: float
    size: VideoSize | None = None

    @property
    def note(self) -> str:
        """For the model card."""
        why = (
            "; the others would cost most latent error per weight"
            if len(self.names) < self.num_layers
            else ", embeddings and output head are not"
        )
        return (
            f"{len(self.names)} of the {self.num_layers} linear layers in its blocks, with {self.share:.0%} of all "
            f"weights, are 8-bit{why}. The latents' relative error from noise that this was not chosen on is "
            f"{self.other_error:.2g}{f', on clips of {size_text(self.size)}' if self.size else ''}."
        )


@torch.no_grad()
def choose_layers(
    student: Student, network: nn.Module, tolerance: float, rounded: Rounded, multiple: int = 1
) -> ChosenLayers:
    """The linear layers in the network's blocks, of widths that `multiple` divides, that may be rounded.

    All of them where that leaves enough room. Else groups of them are tried, that with most error per weight in halves:
    roundings are independent, so the squares of their errors add up, and what gives most error per weight stays as it
    is. So a large network takes some _MOST_TRIES samples, not one for each layer, and of small clips where its own
    would take long. `network` is the student's, without adapters. Raises ValueError when there is no layer to round.
    """
    if (small := small_size(student)) is not None:
        student = replace(student, contract=student.contract.only_at(small))
    layers = _linears(student, network, multiple)
    goal, error = ROOM * tolerance, _error_of(student, network, layers, rounded, PROBE_SEEDS)
    names = list(layers)
    # too much error with all of them: the layers that give most error per weight stay as they are
    if names and error(names) > goal:
        names = _thinned(names, goal, error, {name: layer.weight.numel() for name, layer in layers.items()})
    if not names:
        raise ValueError(
            f"no linear layer of this student can be rounded to 8-bit (widths must be divisible by {multiple}, latents "
            f"within {tolerance:g}): export it unrounded, --to diffusers"
        )
    weights = sum(layers[name].weight.numel() for name in names)
    share = weights / sum(parameter.numel() for parameter in network.parameters())
    # seeds that the choice did not see: what is reported is not what was optimised
    other_error = _error_of(student, network, layers, rounded, _OTHER_SEEDS)(names)
    return ChosenLayers(tuple(sorted(names)), share, len(layers), other_error, small)


def _thinned(
    names: list[str], goal: float, error: Callable[[Iterable[str]], float], weights: dict[str, int]
) -> list[str]:
    """Those of the layers, in the network's order, whose roundings together stay within the goal; groups are halved as
    long as tries are left, then dropped whole."""
    groups = [_Group(half, error(half)) for half in _halves(names)]
    tries = len(groups)
    while groups:
        # squared errors of independent roundings add up; the sum is checked by sampling before it is accepted
        if sum(group.error**2 for group in groups) <= goal**2:
            kept = sorted((name for group in groups for name in group.names), key=names.index)
            if error(kept) <= goal:
                return kept
        # most squared error per weight: halved, to find the layers at fault, or dropped once tries are used up
        worst = max(groups, key=lambda group: group.error**2 / sum(weights[name] for name in group.names))
        groups.remove(worst)
        if len(worst.names) > 1 and tries < _MOST_TRIES:
            groups += [_Group(half, error(half)) for half in _halves(worst.names)]
            tries += 2
    return []


def _halves(names: Sequence[str]) -> list[tuple[str, ...]]:
    middle = (len(names) + 1) // 2
    return [half for half in (tuple(names[:middle]), tuple(names[middle:])) if half]


@dataclass(frozen=True)
class _Group:
    """Layers that are rounded together, and the relative error which that makes."""

    names: tuple[str, ...]
    error: float


def _linears(student: Student, network: nn.Module, multiple: int) -> dict[str, nn.Linear]:
    layers = block_linears(student.teacher, network)
    return {
        name: layer
        for name, layer in layers.items()
        # diffusers keeps some in float32, whatever is asked
        if layer.in_features % multiple == 0 and not stays_exact(network, name)
    }


def _error_of(
    student: Student, network: nn.Module, layers: dict[str, nn.Linear], rounded: Rounded, seeds: Sequence[int]
) -> Callable[[Iterable[str]], float]:
    """Relative error of the student's latents when these layers are rounded."""
    contract, teacher = student.contract, student.teacher
    candidate = replace(student, network=network)
    z = teacher.noise(seeds, teacher.latent_shape(*contract.size))
    conditions = student.conditions_of_any(PROBE_PROMPTS)
    own = candidate.sample(z, conditions)

    def error(names: Iterable[str]) -> float:
        with _rounding([layers[name] for name in names], rounded):
            return float((candidate.sample(z, conditions) - own).norm() / own.norm())

    return error


@contextmanager
def _rounding(layers: list[nn.Linear], rounded: Rounded) -> Iterator[None]:
    outside = [layer.weight.data for layer in layers]
    for layer in layers:
        layer.weight.data = rounded(layer.weight.data).to(layer.weight)
    try:
        yield
    finally:
        for layer, weight in zip(layers, outside, strict=True):
            layer.weight.data = weight
