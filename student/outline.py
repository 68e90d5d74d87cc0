"""A student or a teacher looked at without its weights: whether it is there and whole, and how it will be sampled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fewstep.student.contract import SamplingContract, read_contract
from fewstep.student.export.load_export import check_export, check_family, check_schedule, is_export, own_pipeline
from fewstep.student.load_student import is_student
from fewstep.student.loading import Student, find_stage
from fewstep.student.sampler import Sampler, SamplingOptions, refuse_hub_student, student_sampler, teacher_sampler
from fewstep.student.weights import check_weights
from fewstep.teacher.outline import Outline, outline_teacher


def outline_students(stages: Sequence[Path]) -> tuple[list[Student], Outline]:
    """Finished stages of one teacher, without weights, and its outline.

    Raises ValueError as `outline_sampler` does, and when their teachers differ.
    """
    first, outline = _stage(stages[0], None)
    students = [first, *(_stage(stage, outline)[0] for stage in stages[1:])]
    for student, stage in zip(students, stages, strict=True):
        if student.contract.teacher_sha256 != first.contract.teacher_sha256:
            raise ValueError(
                f"{stage} is a student of {student.contract.teacher}, {stages[0]} of {first.contract.teacher}: one "
                "table holds students of one teacher"
            )
    return students, outline


def outline_sampler(
    source: str | Path, options: SamplingOptions, outline: Outline | None = None
) -> tuple[Sampler, Outline]:
    """What `open_sampler` would open, without weights, and the outline of its teacher.

    `outline` is of a teacher that others share; it is used where it is the model itself, or the student's teacher.
    Raises ValueError as `open_sampler` does: for a model that is missing or not whole, a student whose teacher is
    missing or another one, and one that is asked for what it was not taught.
    """
    path = Path(source).expanduser()
    if not is_student(path):
        teacher_outline = (
            outline if outline is not None and outline.is_of(source) else outline_teacher(source, options.shift)
        )
        refuse_hub_student(source, teacher_outline.teacher)
        return teacher_sampler(teacher_outline.teacher, str(source), options), teacher_outline
    if is_export(path):
        student, teacher_outline = _export(path, outline)
    else:
        student, teacher_outline = _stage(find_stage(path, None if options.force else options.steps), outline)
    return student_sampler(student, str(source), options), teacher_outline


def _stage(stage: Path, outline: Outline | None) -> tuple[Student, Outline]:
    contract = read_contract(stage)
    teacher_outline = _teacher_of(stage, contract, outline)
    contract.prepare(teacher_outline.teacher)
    check_weights(stage, teacher_outline.teacher.denoiser)
    return Student(teacher_outline.teacher, teacher_outline.teacher.denoiser, contract), teacher_outline


def _export(path: Path, outline: Outline | None) -> tuple[Student, Outline]:
    contract = check_export(path)
    own = own_pipeline(path)
    teacher_outline = outline_teacher(path) if own else _teacher_of(path, contract, outline)
    contract.prepare(teacher_outline.teacher)
    check_family(path, contract, teacher_outline.teacher)
    if own:
        check_schedule(path, contract, teacher_outline.teacher)
    return Student(teacher_outline.teacher, teacher_outline.teacher.denoiser, contract), teacher_outline


def _teacher_of(path: Path, contract: SamplingContract, outline: Outline | None) -> Outline:
    """The student's teacher: the one that others share if that is it, else the one that its contract names."""
    # students of one teacher share its outline: it is known by its hash, or by name before its weights are downloaded
    if outline is not None and outline.whole and outline.teacher.sha256() == contract.teacher_sha256:
        return outline
    if outline is not None and outline.is_of(contract.teacher):
        teacher_outline = outline
    else:
        try:
            teacher_outline = outline_teacher(contract.named_teacher, contract.shift)
        except ValueError as error:
            raise ValueError(f"the teacher of {path} cannot be opened: {error}") from error
    if teacher_outline.whole:  # else its sha256 is known once it is downloaded
        contract.check_teacher(teacher_outline.teacher)
    return teacher_outline
