"""A finished student, from a run, one of its stages, or an export."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fewstep.student.contract import CONTRACT_FILE, SamplingContract, read_contract
from fewstep.student.denoiser import student_network
from fewstep.student.loading import Student, find_stage, is_run, teacher_of
from fewstep.student.weights import is_whole, read_network, weights_folder
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import parts_of
from fewstep.teacher.load_teacher import load_teacher


def is_student(folder: Path) -> bool:
    """Whether it is a run, one finished stage of a run, or an export, rather than a teacher's pipeline."""
    from fewstep.student.export.load_export import is_export

    return (folder / CONTRACT_FILE).is_file() or is_run(folder) or is_export(folder)


def load_student(
    folder: Path,
    steps: int | None = None,
    teacher: Teacher | str | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    alone: bool = False,
) -> Student:
    """The student of a run, of one of its stages, or of an export's folder or file. `teacher` replaces where the
    contract says its teacher is.

    alone: the teacher itself will not be asked. Whole networks of a run's student are then the teacher's own, and the
    weights that they replace are not read: one copy in memory, not two.

    Raises ValueError when the contract is missing or not whole, the teacher is another one, or weights do not fit.
    """
    from fewstep.student.export.load_export import is_export, open_export

    if is_export(folder):
        student = open_export(folder, teacher, dtype, device)
        student.contract.check(steps)
        return student
    stage = find_stage(folder, steps)
    contract = read_contract(stage)
    if alone and not isinstance(teacher, Teacher):
        return _load_alone(stage, contract, teacher or contract.named_teacher, dtype, device)
    loaded = teacher_of(contract, teacher, dtype, device)
    contract.prepare(loaded)
    return Student(loaded, student_network(loaded, stage), contract)


def _load_alone(
    stage: Path, contract: SamplingContract, name: str, dtype: torch.dtype, device: torch.device | str | None
) -> Student:
    """The student with its whole networks as the pipeline's own; adapters and parts lie on the teacher's tensors."""
    whole = dict[str, nn.Module]()

    def networks(outline: Teacher) -> dict[str, nn.Module]:
        contract.check_teacher(outline)  # before weights that do not fit another one are read
        for part, like in parts_of(outline.denoiser).items():
            weights = weights_folder(stage, part)
            if weights is not None and is_whole(weights):
                whole[part] = read_network(like, weights, dtype)
        components = outline.component_names()
        return {components[part]: network for part, network in whole.items()}

    teacher = load_teacher(name, dtype, device, contract.shift, networks)
    contract.prepare(teacher)
    return Student(teacher, student_network(teacher, stage, whole), contract)
