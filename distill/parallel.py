"""How the networks of a stage are held by several processes: whole in each of them, or sharded over all (FSDP2).

Sharded, every network has tensors of its own, a part of which lies in each process: student, supervisor, backbone and
what a discriminator adds to it, with adapters or without. None is shared any more, but the whole is still less per
process than one shared copy from four processes on. The teacher's own network waits on the CPU, whole, as what all of
them are copied from: sharded ones cannot be copied.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal
from weakref import WeakKeyDictionary

import torch
from accelerate import Accelerator
from pydantic import Field, model_validator
from torch import Tensor, nn

from fewstep.distill.objectives.base import Settings
from fewstep.distill.split_clips import groups_mesh, split_clips
from fewstep.student.few_bit_layers import into_rows
from fewstep.teacher.base import Teacher
from fewstep.teacher.bases import shared_copy
from fewstep.teacher.experts import parts_of, with_parts
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.predictions import recorded_as
from fewstep.teacher.ranks import current_ranks

Place = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class _Held:
    """What is known of a sharded network: the whole one without weights, and who sharded it."""

    skeleton: nn.Module
    place: Place


_held: WeakKeyDictionary[nn.Module, _Held] = WeakKeyDictionary()


class Parallel(Settings):
    """How several processes hold the networks; one process holds them whole."""

    kind: Literal["ddp", "fsdp"] = "ddp"
    """Whole in each process, or sharded over all of them: less memory, more traffic."""
    offload: Literal["none", "cpu"] = "none"
    """Where sharded weights and optimizers are while nobody asks them: cpu is slower, and takes still less of a GPU."""
    context: Annotated[int, Field(ge=1, le=64)] = 1
    """Neighbouring processes that compute a clip together, each a part of its tokens: fewer activations in each."""

    @model_validator(mode="after")
    def _fits(self) -> Parallel:
        if self.offload != "none" and self.kind != "fsdp":
            raise ValueError(
                f"offload is {self.offload}, and with kind: {self.kind} every process keeps its networks whole: set "
                "parallel.kind=fsdp, or parallel.offload=none"
            )
        return self

    def unused(self, num_processes: int) -> str | None:
        """A sentence where networks are to be sharded, and one process alone holds them whole; else None."""
        if self.kind != "fsdp" or num_processes > 1:
            return None
        settings = "parallel.kind=fsdp" + ("" if self.offload == "none" else f" and parallel.offload={self.offload}")
        return f"{settings} shards networks over several processes, and saves nothing in one: start more with torchrun"

    def shards(self, num_processes: int) -> bool:
        """Whether so many processes hold a share each."""
        return self.kind == "fsdp" and num_processes > 1

    def groups(self, num_processes: int) -> int:
        """How many groups of processes have clips of their own. Raises ValueError where some would be left over."""
        if num_processes == 1:
            return 1
        if num_processes % self.context:
            raise ValueError(
                f"parallel.context is {self.context}, and {num_processes} processes were started, which make no whole "
                f"groups: start a multiple of {self.context}"
            )
        return num_processes // self.context

    def group_of(self, process: int, num_processes: int) -> tuple[int, int]:
        """A process's group, and its place among those that compute the same clips. Raises as `groups`."""
        return divmod(process, num_processes // self.groups(num_processes))


def check_sharded(teacher: Teacher, guidances: Iterable[Guidance]) -> None:
    """Raises ValueError for what cannot be sharded; `guidances` are those of the stages."""
    if teacher.kinds is not None:
        raise ValueError(
            "parallel.kind is fsdp, and networks of which a part alone is trained (student.only) are not sharded: "
            "set parallel.kind=ddp"
        )
    uneven = [guidance for guidance in guidances if guidance.guides and "@" in str(guidance)]
    if uneven and teacher.guided_evaluations > 2:
        raise ValueError(
            f"parallel.kind is fsdp, and this teacher takes further passes where {uneven[0]} guides, which not all "
            "processes would take alike: set parallel.kind=ddp, or guide at every noise level"
        )


class Layout:
    """Where networks are held. With one process, or `ddp`, all stay as they are.

    group, num_groups: which processes take the same clips. together: whether all must ask a network at once.
    """

    def __init__(self, settings: Parallel, accelerator: Accelerator) -> None:
        self._settings, self._accelerator = settings, accelerator
        self.shards = settings.shards(accelerator.num_processes)
        self.num_groups = settings.groups(accelerator.num_processes)
        self.context = accelerator.num_processes // self.num_groups
        self.group, _ = settings.group_of(accelerator.process_index, accelerator.num_processes)
        self.together = self.shards or self.context > 1

    def prepare(self, teacher: Teacher) -> None:
        """Makes room where networks will be sharded: from now on the teacher's own waits on the CPU."""
        if self.shards:
            teacher.rest()
            gc.collect()  # sharded networks of the stage before refer to themselves
            if self._accelerator.device.type == "cuda":
                torch.cuda.empty_cache()

    def placing(self, teacher: Teacher) -> Place:
        """network -> the same network as it is held here; every process must place the same ones in the same order.

        It is a copy where it is sharded, block by block, so that only one block at a time is whole on the device.
        Adapters and gradient checkpointing come before; parameters are to be collected behind it.
        """

        def place(network: nn.Module) -> nn.Module:
            if not self.together:
                return network
            own, skeleton = shared_copy(network), network
            # sharded by FSDP2: few-bit weights in rows first, then each block, then what is around the blocks
            if self.shards:
                into_rows(own)
                skeleton = _without_weights(own)
            if self.context > 1:
                split_clips(own, self._group_mesh)
            if self.shards:
                for block in reversed(teacher.blocks(own)):  # blocks within blocks come behind those around them
                    self._shard(block)
                self._shard(own)
            remember_place(own, skeleton, place)
            return own

        return place

    def _shard(self, module: nn.Module) -> None:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

        take_own_tensors(module)
        # weights and inputs keep their precision, and autocast chooses that of each layer as it does without sharding:
        # in bfloat16 times would have but 256 values, and students are measured in float32
        precision = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        on_gpu = self._accelerator.device.type == "cuda"
        offload = CPUOffloadPolicy(pin_memory=on_gpu) if self._settings.offload == "cpu" else OffloadPolicy()
        # the root as well: else it keeps weights that the EMA has replaced meanwhile
        fully_shard(module, mesh=self._mesh, reshard_after_forward=True, mp_policy=precision, offload_policy=offload)

    @cached_property
    def _group_mesh(self) -> Any:
        return groups_mesh(self._accelerator.device.type, self.num_groups, self.context)

    @cached_property
    def _mesh(self) -> Any:
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self._accelerator.device.type, (self._accelerator.num_processes,))


def remember_place(own: nn.Module, skeleton: nn.Module, place: Place) -> None:
    """Notes how `place` holds a network: `gathered` fills `skeleton`, `placed_like` places others of its make alike."""
    _held[own] = _Held(skeleton, place)


def placed_like(network: nn.Module, other: nn.Module) -> nn.Module:
    """A whole network, held as the other of the same make is: as it is, or sharded."""
    own, theirs = parts_of(network), parts_of(other)
    held = {name: _held.get(part) for name, part in theirs.items()}
    placed = {name: part if (layout := held[name]) is None else layout.place(part) for name, part in own.items()}
    return recorded_as(with_parts(network, placed), network) if any(held.values()) else network


@torch.no_grad()
def gathered(network: nn.Module, keep: bool) -> nn.Module | None:
    """A network that was placed, whole and on the CPU where `keep` says so, else None; every process takes part.

    Tensors come one by one, so no process that keeps none holds more than one of them. What was not sharded is the
    network itself, in every process.
    """
    held, state = _held.get(network), dict[str, Tensor]()
    if held is None:
        return network
    if not any(is_shard(tensor) for tensor in network.parameters()):
        return held.skeleton  # of the very same tensors
    # one may still be writing the network before: a collective call would wait for it for minutes only
    current_ranks().wait()
    # all processes take part in gathering a tensor, also those that do not keep it
    for name, tensor in network.state_dict().items():
        whole = whole_tensor(tensor.detach())
        if keep:
            state[name] = whole.cpu()
    if not keep:
        return None
    # FSDP2's modules cannot be copied: what was set aside before sharding gets the weights
    copy = deepcopy(held.skeleton)
    copy.load_state_dict(state, assign=True)
    return copy


def whole_tensor(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; every process takes part."""
    if not is_shard(tensor):
        return tensor
    part: Any = tensor
    return part.to(part.device_mesh.device_type).full_tensor()  # parts that wait on the CPU are sent by GPUs


def shard_like(local: Tensor, other: Tensor, shape: Sequence[int]) -> Tensor:
    """This process's rows as a sharded tensor of that shape in all, split over processes as `other` is."""
    from torch.distributed.tensor import DTensor

    assert isinstance(other, DTensor)
    stride = torch.empty(tuple(shape), device="meta").stride()
    mesh, placements = other.device_mesh, other.placements
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)


def is_shard(tensor: Tensor) -> bool:
    """Whether other processes hold the rest of this tensor."""
    return hasattr(tensor, "placements")


@torch.no_grad()
def fill(tensor: Tensor, whole: Tensor) -> None:
    """Copies `whole` into a tensor, of which this process may hold a part; nothing is sent."""
    if not is_shard(tensor):
        tensor.copy_(whole)
        return
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(tensor, DTensor)
    if whole.shape != tensor.shape:
        raise ValueError(f"a tensor of shape {tuple(whole.shape)} should be {tuple(tensor.shape)}")
    whole = whole.to(tensor.device_mesh.device_type)
    # every process has `whole`, and cuts its own part out of it
    part = distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)
    tensor.to_local().copy_(part.to_local())


def take_own_tensors(module: nn.Module) -> None:
    """Copies of what is not sharded yet: sharding moves tensors, and these may be another network's as well."""
    # by identity, so that tied weights stay tied
    copies: dict[int, Any] = {}
    for one in module.modules():
        for name, parameter in one.named_parameters(recurse=False):
            if not is_shard(parameter):
                copied = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
                one.register_parameter(name, copies.setdefault(id(parameter), copied))
        for name, buffer in one.named_buffers(recurse=False):
            lasting = name not in one._non_persistent_buffers_set
            one.register_buffer(name, copies.setdefault(id(buffer), buffer.clone()), persistent=lasting)


def _without_weights(network: nn.Module) -> nn.Module:
    named = [*network.named_parameters(), *network.named_buffers()]
    empty: dict[int, Any] = {}
    # deepcopy takes what its memo holds: modules are copied, and weights become shapes on the device meta
    for _, tensor in named:
        blank = torch.empty_like(tensor, device="meta")
        is_parameter = isinstance(tensor, nn.Parameter)
        empty[id(tensor)] = nn.Parameter(blank, tensor.requires_grad) if is_parameter else blank
    return deepcopy(network, empty)
