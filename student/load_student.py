"""A finished student, from a run, one of its stages, or an export."""

from __future__ import annotations

from pathlib import Path

import torch

from fewstep.student.contract import CONTRACT_FILE, read_contract
from fewstep.student.denoiser import student_network
from fewstep.student.loading import Student, find_stage, is_run, teacher_of
from fewstep.teacher.base import Teacher


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
) -> Student:
    """The student of a run, of one of its stages, or of an export's folder or file. `teacher` replaces where the
    contract says its teacher is.

    Raises ValueError when the contract is missing or not whole, the teacher is another one, or weights do not fit.
    """
    from fewstep.student.export.load_export import is_export, open_export

    if is_export(folder):
        student = open_export(folder, teacher, dtype, device)
        student.contract.check(steps)
        return student
    stage = find_stage(folder, steps)
    contract = read_contract(stage)
    loaded = teacher_of(contract, teacher, dtype, device)
    contract.prepare(loaded)
    return Student(loaded, student_network(loaded, stage), contract)
