"""Who is who in a stage: student, supervisor and backbone, as networks over as few copies of the weights as possible.

With LoRA they are one copy of the weights with different adapters; with full training the student has its own. Of a
denoiser of several experts each has roles of its own, so that one may be trained while another stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep.student.adapters import (
    adapter_parameters,
    add_adapter,
    load_adapter,
    merge_adapters,
    save_adapter,
)
from fewstep.student.average import Average, AveragePlace
from fewstep.student.contract import contracted
from fewstep.student.part import is_part, load_part, part_parameters, save_part
from fewstep.student.recompute import Recompute, block_checkpoint
from fewstep.student.weights import copy_weights, is_adapter, load_network, save_network, weights_folder
from fewstep.teacher.base import Teacher
from fewstep.teacher.bases import Kinds, cpu_copy, part_copy, shared_copy
from fewstep.teacher.experts import Experts, every_network, parts_of, with_parts
from fewstep.teacher.predictions import recorded_as

Train = Literal["full", "lora"]
STUDENT_ADAPTER = "student"


@dataclass(frozen=True)
class _Lora:
    """How a fresh adapter is made."""

    rank: int
    alpha: float
    targets: tuple[str, ...] | None
    kinds: Kinds | None = None


class _Network:
    """The roles of one network: of the only one, or of one expert. `train` None: it stays as the stage began.

    `own` is the teacher's; start, supervisor: folders of weights, None is the teacher's.
    """

    def __init__(self, own: Any, train: Train | None, start: Path | None, supervisor: Path | None, lora: _Lora) -> None:
        self._own, self._start, self._train = own, start, train
        # weights that adapters are put on: the teacher's, unless an earlier stage left its own
        whole = start if train and start and not is_adapter(start) else None
        self._base = _own_network(own, whole, torch.float32) if whole else own
        self._kinds = lora.kinds
        self.student = self._student(lora)
        self.supervisor = self._supervisor(supervisor)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of the student, by its names in it."""
        if self._train is None:
            return {}
        if self._train == "lora":
            return adapter_parameters(self.student, STUDENT_ADAPTER)
        return (
            dict(self.student.named_parameters()) if self._kinds is None else part_parameters(self.student, self._kinds)
        )

    def _student(self, lora: _Lora) -> nn.Module:
        if self._train is None:
            return _network_of(self._own, self._start)
        return self._adapted_student(lora) if self._train == "lora" else self._full_student()

    def _adapted_student(self, lora: _Lora) -> nn.Module:
        student = shared_copy(self._base).requires_grad_(False)
        # one adapter is trained through a relay of LoRA stages; a fresh one, with B = 0, changes nothing yet
        if self._start is not None and is_adapter(self._start):
            load_adapter(student, STUDENT_ADAPTER, self._start)
        else:
            add_adapter(student, STUDENT_ADAPTER, lora.rank, lora.alpha, lora.targets, lora.kinds)
        return student

    def _part_student(self, kinds: Kinds) -> nn.Module:
        student = part_copy(self._base, kinds)
        for parameter in part_parameters(student, kinds).values():
            parameter.data = parameter.data.float()  # in bfloat16 weights would lose small updates
        # a part that is trained whole begins as the adapter of the stage before, merged
        if self._start is not None and is_adapter(self._start):
            load_adapter(student, STUDENT_ADAPTER, self._start)
            merge_adapters(student)
        student.requires_grad_(False)
        for parameter in part_parameters(student, kinds).values():
            parameter.requires_grad_(True)
        return student

    def _full_student(self) -> nn.Module:
        if self._kinds is not None:
            return self._part_student(self._kinds)
        # the teacher's own network is never trained; weights of an earlier stage were loaded for this student alone
        student: nn.Module = deepcopy(self._base) if self._base is self._own else self._base
        student.float()  # in bfloat16 weights would lose small updates
        if self._start is not None and is_adapter(self._start):
            load_adapter(student, STUDENT_ADAPTER, self._start)
            merge_adapters(student)
        return student.requires_grad_(True)

    def _supervisor(self, supervisor: Path | None) -> nn.Module:
        # a student that starts as its supervisor has it already: as itself if untrained, or under its adapter
        if supervisor is not None and supervisor == self._start:
            if self._train is None:
                return self.student
            if self._train == "lora" and self._base is not self._own:
                return self._base
        return _network_of(self._own, supervisor)

    @property
    def weights(self) -> Train | None:
        """What `save` writes: an adapter, or a whole network, which is also what an adapter on own weights becomes;
        None where the network is the teacher's."""
        if self._train is None:
            return None if self._start is None else "lora" if is_adapter(self._start) else "full"
        return "lora" if self._train == "lora" and self._base is self._own else "full"

    def save(self, folder: Path, student: nn.Module) -> None:
        """Writes the weights of `student`, which is this one's, whole, into an existing folder."""
        if self._train is None:
            if self._start is not None:
                copy_weights(self._start, folder)
        elif self.weights == "lora":
            save_adapter(student, STUDENT_ADAPTER, folder)
        elif self._train == "lora":
            # an adapter on weights that are not the teacher's fits no teacher: it is saved merged, as a whole network,
            # by way of main memory, as training may have left no room for a copy
            merged = cpu_copy(student)
            merge_adapters(merged)
            self._save_own(merged, folder)
        else:
            self._save_own(student, folder)

    def _save_own(self, network: nn.Module, folder: Path) -> None:
        if self._kinds is None:
            save_network(network, folder)
        else:
            save_part(network, self._kinds, folder)


Gather = Callable[[nn.Module, bool], nn.Module | None]


def _as_it_is(network: nn.Module, keep: bool) -> nn.Module:
    return network


class Roles:
    """The networks of one stage; pass them to the teacher's methods as `network=`.

    start, supervisor: folders of finished stages' weights (student.weights); None is the teacher itself. An untrained
    student computes what `start` does, and each network is read as predicting what its contract says. The teacher's
    own network is never touched. `experts`: names of those that are trained; None: all. `average`: where the
    EMA is kept.
    """

    def __init__(
        self,
        teacher: Teacher,
        train: Train = "full",
        start: Path | None = None,
        supervisor: Path | None = None,
        rank: int = 64,
        alpha: float = 64.0,
        targets: tuple[str, ...] | None = None,
        experts: Collection[str] | None = None,
        average: AveragePlace = "device",
    ) -> None:
        self.teacher, self._keeps = teacher, average
        self.backbone = teacher.denoiser
        lora = _Lora(rank, alpha, targets, teacher.kinds)
        # one entry for a single denoiser, one for each expert; an expert that is not trained stays the teacher's
        self._networks = {
            name: _Network(
                own,
                train if experts is None or name in experts else None,
                weights_folder(start, name),
                weights_folder(supervisor, name),
                lora,
            )
            for name, own in parts_of(self.backbone).items()
        }
        self.student = self._joined({name: network.student for name, network in self._networks.items()}, start)
        # without a student above it the frozen teacher itself supervises, at no further memory
        supervisors = {name: network.supervisor for name, network in self._networks.items()}
        self.supervisor = self.backbone if supervisor is None else self._joined(supervisors, supervisor)
        self._gather: Gather = _as_it_is

    def place(self, place: Callable[[nn.Module], nn.Module], gather: Gather) -> None:
        """Holds each network as `place` says, such as sharded; `gather` is the way back.

        To be called before anyone asks for parameters or averages, and with adapters and gradient checkpointing on.
        """
        # by identity: a network that has several roles is placed once, and stays shared
        held: dict[int, nn.Module] = {}

        def placed(denoiser: nn.Module) -> nn.Module:
            parts = parts_of(denoiser)
            for part in parts.values():
                if id(part) not in held:
                    held[id(part)] = place(part)
            if all(held[id(part)] is part for part in parts.values()):
                return denoiser
            return recorded_as(with_parts(denoiser, {name: held[id(part)] for name, part in parts.items()}), denoiser)

        same = self.supervisor is self.backbone
        self.student, self.backbone, supervisor = map(placed, (self.student, self.backbone, self.supervisor))
        self.supervisor = self.backbone if same else supervisor
        for name, network in self._networks.items():
            network.student = parts_of(self.student)[name]
        self._gather = gather

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained of the student, by name."""
        return self._trained[0]

    @property
    def average(self) -> dict[str, Tensor]:
        """The EMA of these parameters, which begins when they are first asked for; where none is kept, the
        parameters themselves."""
        return self._trained[1].tensors

    @property
    def keeps_average(self) -> bool:
        """Whether the average has tensors of its own."""
        return self._keeps != "none"

    @cached_property
    def _trained(self) -> tuple[dict[str, nn.Parameter], Average]:
        parameters = {
            f"{name}.{key}" if name else key: parameter
            for name, network in self._networks.items()
            for key, parameter in network.parameters.items()
        }
        return parameters, Average(parameters, self._keeps)

    def _joined(self, networks: dict[str, nn.Module], folder: Path | None) -> nn.Module:
        joined = with_parts(self.backbone, networks)
        return joined if folder is None else contracted(joined, folder)

    def update_average(self, decay: float) -> None:
        """One step of the EMA of the student's parameters."""
        self._trained[1].update(decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The student holds its EMA inside the `with` block, and `average` what the student held; not to be nested."""
        if not self.keeps_average:
            yield
            return
        with self._trained[1].swapped():
            yield

    def checkpoint_gradients(
        self, kind: Recompute = True, again: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> None:
        """Trades time for memory where gradients pass: in the student, and in the backbone a discriminator reads; see
        `block_checkpoint`.

        Raises ValueError for a network that cannot.
        """
        for denoiser in (self.student, self.backbone):
            for network in every_network(denoiser):
                network.enable_gradient_checkpointing(block_checkpoint(kind, again))

    @property
    def weights(self) -> Train:
        """What `save` writes: adapters alone, or a whole network at least once."""
        return "full" if "full" in (network.weights for network in self._networks.values()) else "lora"

    @property
    def own(self) -> tuple[str, ...]:
        """Names of the networks that have weights of their own; the others are the teacher's."""
        return tuple(name for name, network in self._networks.items() if network.weights is not None)

    def save(self, folder: Path | None, names: Collection[str] | None = None) -> None:
        """Writes the EMA into an existing folder: an adapter, or the network's own diffusers files.

        Experts get a folder each in it, but for those that are the teacher's; of these `names`, if given. Of several
        processes that hold parts of the networks all call it, those with folder None to give theirs.
        """
        with self.averaged():
            for name, network in self._networks.items():
                if network.weights is not None and (names is None or name in names):
                    # sharded networks are gathered by all processes, of which one writes
                    whole = self._gather(network.student, folder is not None)
                    if folder is not None and whole is not None:
                        (folder / name).mkdir(exist_ok=True)
                        network.save(folder / name, whole)


def single_denoiser(teacher: Teacher) -> Any:
    """The teacher's only denoiser, for what can hold but one. Raises ValueError where it has two experts."""
    if isinstance(teacher.denoiser, Experts):
        raise ValueError(
            f"{teacher.folder} has two denoisers (experts), and this can be done with one only: use a teacher with a "
            "single denoiser"
        )
    return teacher.denoiser


def student_network(teacher: Teacher, folder: Path, loaded: Collection[str] = ()) -> nn.Module:
    """A finished stage's weights as a frozen network, for `network=`. Raises ValueError when they do not fit.

    loaded: names of the networks that the teacher's denoiser has of the stage already.
    """
    networks = {
        name: _network_of(own, None if name in loaded else weights_folder(folder, name))
        for name, own in parts_of(teacher.denoiser).items()
    }
    return contracted(with_parts(teacher.denoiser, networks), folder)


def _own_network(own: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    """The teacher's own network with a folder's whole weights, or those of a part."""
    return load_part(own, folder, dtype) if is_part(folder) else load_network(own, folder, dtype)


def _network_of(own: Any, folder: Path | None) -> nn.Module:
    """The teacher's own network with a folder's weights, frozen; None: as it is."""
    if folder is None:
        module: nn.Module = own
        return module
    if not is_adapter(folder):
        return _own_network(own, folder, own.dtype)
    network = shared_copy(own)
    load_adapter(network, STUDENT_ADAPTER, folder)
    return network.requires_grad_(False)
