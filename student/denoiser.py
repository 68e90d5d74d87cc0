"""Who is who in a stage: student, supervisor and backbone, as networks over as few copies of the weights as possible.

With LoRA they are one copy of the weights with different adapters; with full training the student has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
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
    shared_copy,
)
from fewstep.student.contract import contracted
from fewstep.student.weights import is_adapter, load_network, save_network
from fewstep.teacher.base import Teacher

Train = Literal["full", "lora"]
ADAPTER = "student"


class Roles:
    """The networks of one stage; pass them to the teacher's methods as `network=`.

    start, supervisor: folders of finished stages' weights (student.weights); None is the teacher itself. An untrained
    student computes what `start` does, and each network is read as predicting what its contract says. The teacher's
    own network is never touched.
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
    ) -> None:
        self.teacher = teacher
        self.backbone = the_denoiser(teacher)
        self._adapted = train == "lora"
        # weights that adapters are put on: the teacher's, unless an earlier stage left its own
        own = start if start and not is_adapter(start) else None
        self._base = contracted(load_network(self.backbone, own), own) if own else self.backbone
        self.student = (
            self._adapted_student(start, rank, alpha, targets) if self._adapted else self._full_student(start)
        )
        self.supervisor = self._supervisor(start, supervisor)
        trained = adapter_parameters(self.student, ADAPTER) if self._adapted else self.student.named_parameters()
        self.parameters: dict[str, nn.Parameter] = dict(trained)
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    def _adapted_student(
        self, start: Path | None, rank: int, alpha: float, targets: tuple[str, ...] | None
    ) -> nn.Module:
        student = shared_copy(self._base).requires_grad_(False)
        if start is not None and is_adapter(start):
            load_adapter(student, ADAPTER, start)
            contracted(student, start)
        else:
            add_adapter(student, ADAPTER, rank, alpha, targets)
        return student

    def _full_student(self, start: Path | None) -> nn.Module:
        student = deepcopy(self._base) if self._base is self.backbone else self._base
        student.float()  # in bfloat16 weights would lose small updates
        if start is not None and is_adapter(start):
            load_adapter(student, ADAPTER, start)
            merge_adapters(student)
            contracted(student, start)
        return student.requires_grad_(True)

    def _supervisor(self, start: Path | None, supervisor: Path | None) -> nn.Module:
        if supervisor is None:
            return self.backbone
        if self._adapted and supervisor == start and not is_adapter(start):
            return self._base
        return student_network(self.teacher, supervisor)

    @torch.no_grad()
    def update_average(self, decay: float) -> None:
        """One step of the moving average of the student's parameters."""
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The student holds its moving average inside the `with` block."""
        outside = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._fill(self.average)
        try:
            yield
        finally:
            self._fill(outside)

    @torch.no_grad()
    def _fill(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def checkpoint_gradients(self) -> None:
        """Trades time for memory where gradients pass: in the student, and in the backbone a discriminator reads.

        Raises ValueError for a network that cannot.
        """
        for network in (self.student, self.backbone):
            checkpointed: Any = network
            checkpointed.enable_gradient_checkpointing()

    @property
    def weights(self) -> Train:
        """What `save` writes: adapters, or a whole network, which is also what adapters on own weights become."""
        return "lora" if self._adapted and self._base is self.backbone else "full"

    def save(self, folder: Path) -> None:
        """Writes the moving average into an existing folder: an adapter, or the network's own diffusers files."""
        with self.averaged():
            if self.weights == "lora":
                save_adapter(self.student, ADAPTER, folder)
            elif self._adapted:
                merged = deepcopy(self.student)
                merge_adapters(merged)
                save_network(merged, folder)
            else:
                save_network(self.student, folder)


def the_denoiser(teacher: Teacher) -> Any:
    """The teacher's only denoiser. Raises ValueError for a family with several experts."""
    first, last = teacher.network_at(1.0), teacher.network_at(0.0)
    if first is not last:
        raise ValueError(
            f"{teacher.folder} has two denoisers (experts), and a student has one: use a teacher with a single denoiser"
        )
    return first


def student_network(teacher: Teacher, folder: Path) -> nn.Module:
    """A finished stage's weights as a frozen network, for `network=`. Raises ValueError when they do not fit."""
    base = the_denoiser(teacher)
    if not is_adapter(folder):
        return contracted(load_network(base, folder, base.dtype), folder)
    network = shared_copy(base)
    load_adapter(network, ADAPTER, folder)
    return contracted(network, folder).requires_grad_(False)
