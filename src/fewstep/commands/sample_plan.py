"""How clips are to be sampled: as asked, where a teacher is free and a student is bound by its contract."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.commands.asked import DType, size_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fewstep.student.contract import SamplingContract
    from fewstep.teacher.base import Teacher, VideoSize

_STEPS, _GUIDANCE = 50, 5.0  # of a teacher


@dataclass(frozen=True)
class Plan:
    """Everything that sampling needs but prompts and noise."""

    teacher: Teacher
    network: nn.Module | None  # None: the teacher's own
    grid: Tensor
    guidance: float
    size: VideoSize
    fps: float


@dataclass(frozen=True)
class Asked:
    """What the user asked for; None is the model's own."""

    steps: int | None
    guidance: float | None
    shift: float | None
    negative_prompt: str
    frames: int | None
    height: int | None
    width: int | None

    def of_teacher(self, teacher: Teacher) -> Plan:
        """As asked, at any steps, guidance and shift."""
        return Plan(
            teacher,
            None,
            _grid(teacher, self.steps or _STEPS, self.shift),
            _GUIDANCE if self.guidance is None else self.guidance,
            size_of(teacher, self.frames, self.height, self.width),
            teacher.default_fps(),
        )

    def of_student(self, folder: Path, teacher_name: str | None, force: bool, dtype: DType, device: str | None) -> Plan:
        """On the contract's nodes. Raises ValueError for anything else, unless forced."""
        import torch

        from fewstep.student.loading import load_student

        steps = None if force else self.steps
        student = load_student(folder, steps, teacher_name, getattr(torch, dtype), device)
        contract, teacher = student.contract, student.teacher
        if not force:
            contract.check(self.steps, self.shift, self.guidance)
            _check_negative(contract, self.negative_prompt)
        free = self.steps not in (None, contract.steps) or self.shift not in (None, contract.shift)
        return Plan(
            teacher,
            student.network,
            _grid(teacher, self.steps or contract.steps, self.shift) if free else contract.grid,
            contract.guidance if self.guidance is None else self.guidance,
            _size(contract, self.frames, self.height, self.width),
            contract.fps,
        )


def _grid(teacher: Teacher, steps: int, shift: float | None) -> Tensor:
    schedule = teacher.schedule if shift is None else replace(teacher.schedule, shift=shift)
    return schedule.grid(steps)


def _size(contract: SamplingContract, frames: int | None, height: int | None, width: int | None) -> VideoSize:
    """The contract's size, where nothing else is asked; other sizes are the user's own affair, as of a teacher."""
    asked = {"num_frames": frames, "height": height, "width": width}
    return contract.size._replace(**{name: side for name, side in asked.items() if side is not None})


def _check_negative(contract: SamplingContract, negative_prompt: str) -> None:
    if negative_prompt not in ("", contract.negative_prompt):
        raise ValueError(
            f"the student has the negative prompt {contract.negative_prompt!r} inside its weights: another one has no "
            "effect without guidance; leave --negative-prompt out, or --force samples it all the same"
        )
