"""A student in every format that fits, each in a folder of its own, and why the others do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fewstep.student.export.base import MODULES, Exported, Options, find_format
from fewstep.student.export.provenance import Provenance
from fewstep.student.export.whole_folder import EXPORT_FILE, check_export_folder
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.files.atomic import disk_full_errno
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.interrupts import stopped_by


def options_of(name: str, options: Options) -> Options:
    """The options that apply to this format."""
    format = find_format(name)
    return replace(
        options,
        rank=options.rank if format.adapters else None,
        shard=options.shard if format.shards else None,
    )


def unfit_formats(teacher: Teacher, options: Options) -> dict[str, str]:
    """Format -> why it cannot hold this student, whose weights are not looked at, or cannot be written here."""
    reasons = {}
    for name in MODULES:
        format = find_format(name)
        if why := format.missing(teacher):
            reasons[name] = why
            continue
        try:
            format.check_needs()
            format.check_options(options_of(name, options))
        except ValueError as error:
            reasons[name] = str(error)
    return reasons


def origins_of(weights: str, provenance: Provenance, options: Options) -> dict[str, dict[str, Any]]:
    """What decides what is written, by format: the checksum of the student's weights, that of what its model card says
    of its training, and the options that apply."""
    said = hashlib.sha256(json.dumps(asdict(provenance), sort_keys=True, default=str).encode()).hexdigest()
    shared = {"weights_sha256": weights, "provenance_sha256": said}
    return {name: shared | asdict(options_of(name, options)) for name in MODULES}


def kept_export(folder: Path, origin: Mapping[str, Any]) -> Exported | None:
    """The finished export in this folder, if it was made from the same."""
    try:
        saved = parse_json((folder / EXPORT_FILE).read_text("utf-8"))
        return Exported(folder, **saved) if saved["origin"] == origin else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or one of another version
        return None


def check_every(out: Path, force: bool, origins: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError when the folder of a format in `out` cannot be written, or is there already and no finished
    export of this origin."""
    for name in MODULES:
        if force or kept_export(out / name, origins[name]) is None:
            check_export_folder(out / name, force)


def export_every(
    student: Student,
    out: Path,
    options: Options,
    origins: Mapping[str, Mapping[str, Any]],
    provenance: Provenance | None = None,
    force: bool = False,
    on_format: Callable[[str], None] = lambda name: None,
) -> tuple[list[Exported], dict[str, str]]:
    """The exports, each in the folder of its format's name in `out`, and for each other format why it is not there.

    origins: as of `origins_of`; finished exports of the same origin stay, unless `force` is set.
    """
    refused, done = unfit_formats(student.teacher, options), list[Exported]()
    for name in MODULES:
        if name in refused:
            continue
        if not force and (kept := kept_export(out / name, origins[name])) is not None:
            done.append(kept)
            continue
        on_format(name)
        # a format that fails is reported with its reason, and the others are written all the same
        try:
            own = options_of(name, options)
            done.append(write_export(student, name, out / name, own, provenance, force, origins[name]))
        except Exception as error:  # libraries raise any kind; no other format would fare better on a full disk
            if disk_full_errno(error) is not None or stopped_by(error):
                raise
            refused[name] = " ".join(str(error).split()) or type(error).__name__
    return done, refused
