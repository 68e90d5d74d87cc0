"""A teacher without its weights: all that its configs decide, so that mistakes show before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fewstep.teacher.base import Teacher
from fewstep.teacher.families import FAMILIES, MODULAR_FAMILIES, REFUSED
from fewstep.teacher.pipelines.empty_parts import outlined
from fewstep.teacher.pipelines.parts import has_weights
from fewstep.teacher.source import EMBEDDED, find_teacher_folder


@dataclass(frozen=True)
class Outline:
    """`teacher` has its networks on the device meta: sizes, schedule, blocks and parameters can be asked for, but no
    clips. `whole`: its weights are on this disk, and so its sha256 can be taken; of a hub id they may yet have to be
    downloaded."""

    name: str
    teacher: Teacher
    whole: bool

    def is_of(self, name: str | Path) -> bool:
        """Whether this is the teacher called `name`, or in that folder."""
        return str(name) == self.name or self.teacher.folder.resolve() == Path(name).expanduser().resolve()


def outline_teacher(name: str | Path, shift: float | None = None) -> Outline:
    """The outline of `shapes`, a diffusers pipeline's folder or a hub id, of which no weights are downloaded.

    `shift` replaces the scheduler's own. Raises ValueError as `load_teacher` does, when there is no such teacher, its
    family is unknown, a part of it is missing, cut off or not what its config says, or its schedule is not one of its
    family.
    """
    folder, class_name = find_teacher_folder(
        name, tuple(FAMILIES), weights=False, modular=MODULAR_FAMILIES, refused=REFUSED
    )
    whole = Path(name).expanduser().is_dir() or name in EMBEDDED or has_weights(folder, class_name)
    return Outline(str(name), outlined(FAMILIES[class_name], folder, class_name, shift, weights=whole), whole)
