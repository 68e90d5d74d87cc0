"""Several base models around one part that they have in common: AnimateDiff's motion module on many image models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

BASE_INDEX = "base"  # among what both branches of `Conditions` see: which base model a clip is of, int64 (B,)
Kinds = tuple[type[nn.Module], ...]  # classes of the modules that make up a part
_N = TypeVar("_N", bound=nn.Module)


class Bases(nn.Module):
    """Networks of one architecture whose modules of some classes are the very same; all else is each one's own.

    It stands where a single network may stand: as `Teacher.denoiser` and as `network=` of the teacher's methods, which
    ask each network about the clips of its own base model. What is trained, adapted and saved is the part in common,
    and that is the first network's.
    """

    def __init__(self, networks: Sequence[nn.Module], kinds: Kinds) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.kinds = kinds
        for other in networks[1:]:
            for name in part_names(networks[0], kinds):
                other.set_submodule(name, networks[0].get_submodule(name))

    def __len__(self) -> int:
        """How many base models."""
        return len(self.networks)

    @property
    def first(self) -> nn.Module:
        """The first base model's network."""
        return self.networks[0]

    @property
    def dtype(self) -> torch.dtype:
        """That of the first network, as diffusers says it."""
        common: torch.dtype = self.first.dtype  # type: ignore[assignment]
        return common

    def around(self, first: nn.Module) -> Bases:
        """The same base models around the part in another network of the first."""
        if first is self.first:
            return self
        return Bases([first, *(shared_copy(other) for other in list(self.networks)[1:])], self.kinds)

    def numbers(self, shared: Mapping[str, Tensor], count: int) -> Tensor:
        """Which base model each of `count` clips is of, int64 (B,), on the CPU: the first, where nothing says."""
        indices = shared.get(BASE_INDEX)
        return torch.zeros(count, dtype=torch.int64) if indices is None else indices.cpu()

    def shares(self, numbers: Tensor) -> Iterator[tuple[nn.Module, Tensor]]:
        """Network and rows, bool (B,), of each base model that some clips are of."""
        for number in numbers.unique().tolist():
            yield self.networks[number], numbers == number


def shared_copy(network: _N, but: Collection[str] = ()) -> _N:
    """The network's modules once more, around the same tensors: what is put on the copy leaves the network alone.

    So each role has its own adapter in place, none needs to be switched on or off, and memory grows by adapters only.
    Tensors of the names in `but` are copied, too.
    """
    named = [*network.named_parameters(), *network.named_buffers()]
    tensors: dict[int, Any] = {id(tensor): tensor for name, tensor in named if name not in but}
    return deepcopy(network, tensors)  # deepcopy keeps what it finds in its memo


def cpu_copy(network: _N) -> _N:
    """A copy in main memory."""
    tensors: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("cpu", copy=True), p.requires_grad) for p in network.parameters()
    }
    tensors |= {id(buffer): buffer.detach().to("cpu", copy=True) for buffer in network.buffers()}
    return deepcopy(network, tensors)


def part_names(network: nn.Module, kinds: Kinds) -> list[str]:
    """The names of all modules of these classes."""
    return [name for name, module in network.named_modules() if isinstance(module, kinds)]


def part_state(network: nn.Module, kinds: Kinds) -> dict[str, Tensor]:
    """The parameters and buffers of the modules of these classes, by their names in the network."""
    inside = tuple(f"{name}." for name in part_names(network, kinds))
    return {n: x for n, x in network.state_dict(keep_vars=True).items() if n.startswith(inside)}


def part_copy(network: _N, kinds: Kinds) -> _N:
    """`shared_copy`, but with modules of these classes that have tensors of their own."""
    return shared_copy(network, part_state(network, kinds).keys())


def check_alike(first: nn.Module, other: nn.Module, kinds: Kinds) -> None:
    """Raises ValueError when the part of one does not fit the other."""
    theirs, ours = ({n: x.shape for n, x in part_state(network, kinds).items()} for network in (other, first))
    differing = [name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)]
    if differing or not ours:
        raise ValueError(f"{min(differing, default='all of it')} differs")
