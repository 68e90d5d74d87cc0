"""How sharded networks (FSDP2) would be held, on the device meta: what one process has, without the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from fewstep.distill.meta_step import MetaMemory
from fewstep.distill.parallel import Parallel, remember_place, take_own_tensors
from fewstep.distill.trainer import Trainer
from fewstep.student.adapters import shared_copy
from fewstep.student.few_bit_layers import into_rows
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import every_network

_AT_ONCE = 2  # blocks that are whole on a device: the one that computes, and the next, which is fetched meanwhile


class PaperLayout:
    """`distill.parallel.Layout` for `MetaMemory`, of which each process holds one share.

    `gathered` is what comes on top within a step, in bytes: weights of blocks, and of what is in none, while they are
    whole on the device, and the gradients of blocks before they are averaged.
    """

    def __init__(self, settings: Parallel, num_processes: int, teacher: Teacher, memory: MetaMemory) -> None:
        self._teacher, self._memory = teacher, memory
        self._share = 1 / num_processes
        self._on_device = 0.0 if settings.offload == "cpu" else self._share
        self._placed = list[nn.Module]()
        self.gathered = 0

    def place(self, network: nn.Module) -> nn.Module:
        """network -> the same one with tensors of its own, a share of which is on the device."""
        own = shared_copy(network)
        into_rows(own)
        take_own_tensors(own)
        # between steps a process holds its share of each tensor, or none on the device where that is offloaded
        self._memory.share(_tensors([own]), self._on_device)
        for parameter in own.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self._average)
        # within a step two blocks are whole, with their gradients, and so is what lies around the blocks
        blocks = self._teacher.blocks(own)
        in_blocks = {id(tensor) for block in blocks for tensor in block.parameters()}
        largest = max((_bytes(block.parameters()) for block in blocks), default=0)
        trained = max((_bytes(p for p in block.parameters() if p.requires_grad) for block in blocks), default=0)
        rest = _bytes(tensor for tensor in own.parameters() if id(tensor) not in in_blocks)
        self.gathered = max(self.gathered, rest + _AT_ONCE * (largest + trained))
        remember_place(own, nn.Module(), self.place)  # nothing is gathered on paper
        self._placed.append(own)
        return own

    def resolve(self, trainer: Trainer) -> None:
        """Moments and averages are shared out like what they belong to; the teacher's own network is not there."""
        sharded = {id(parameter) for network in self._placed for parameter in network.parameters()}
        self._memory.share(_tensors(every_network(self._teacher.denoiser)), 0.0)
        for group in trainer.optimizer_groups.values():
            states = (group.optimizer.state[p] for p in group.parameters if id(p) in sharded)
            self._memory.share((x for state in states for x in state.values()), self._on_device)
        if trainer.roles.keeps_average:
            own = {name for name, parameter in trainer.roles.parameters.items() if id(parameter) in sharded}
            averages = (tensor for name, tensor in trainer.roles.average.items() if name in own)
            self._memory.share(averages, self._on_device)

    def _average(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._memory.share([parameter.grad], self._on_device)


def _tensors(networks: Iterable[nn.Module]) -> Iterator[Tensor]:
    for network in networks:
        yield from network.parameters()
        yield from network.buffers()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
