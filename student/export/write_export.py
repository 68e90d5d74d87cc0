"""Writing an export: whole or not at all, and never unless the other tool agrees."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fewstep.student.contract import SamplingContract
from fewstep.student.export.base import Exported, Format, Options, find_format
from fewstep.student.export.privacy import forget_origins, published
from fewstep.student.export.whole_folder import EXPORT_FILE, whole_folder
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.loading import quiet_libraries

if TYPE_CHECKING:
    from fewstep.student.export.provenance import Provenance


def check_rank(rank: int | None, adapted: bool) -> None:
    """Raises ValueError for the rank of a LoRA to be extracted from a student that is one already."""
    if adapted and rank is not None:
        raise ValueError("the student is a LoRA, which is written as it is, of its own rank: leave --rank out")


def check_lora_base(teacher: Teacher, contract: SamplingContract) -> None:
    """Raises ValueError when a LoRA would be extracted against another network than the student's teacher: from an
    export that is a whole pipeline the student differs in nothing."""
    if teacher.sha256() != contract.teacher_sha256:
        raise ValueError(
            "a LoRA holds what a student changed in its teacher's weights, which an export does not have: pass "
            f"--teacher with {contract.teacher}"
        )


def resolved_options(format: Format, student: Student, options: Options) -> Options:
    """The options with what they leave open; `rank` is None where no LoRA is extracted. Raises ValueError when one
    cannot be."""
    from fewstep.student.export.lora import is_adapted
    from fewstep.student.export.precision import published_precision

    adapted = is_adapted(student.network)
    check_rank(options.rank, adapted)
    published = published_precision(student.teacher)
    precision = options.precision or (published if published in format.precisions else format.precisions[0])
    return replace(options, rank=None if adapted else options.rank or format.usual_rank, precision=precision)


def write_export(
    student: Student,
    to: str,
    out: Path,
    options: Options | None = None,
    provenance: Provenance | None = None,
    force: bool = False,
    origin: Mapping[str, Any] | None = None,
) -> Exported:
    """Writes the student in the format `to` into the folder `out`, which appears once it is whole and proven.

    origin: what its export.json says it was made from.

    Raises ValueError when `out` exists and is not to be replaced, when the format cannot hold the student, and when
    the other tool's latents differ by more than the format's tolerance.
    """
    from fewstep.student.export.comparison import check_latents, compare, expected_latents
    from fewstep.student.export.model_card import model_card
    from fewstep.student.export.rounded import rounded

    format, begin, options = find_format(to), time.monotonic(), options or Options()
    format.check(student, options)
    student = replace(student, contract=published(student.contract, options.base_model))
    options = resolved_options(format, student, options)
    if options.rank is not None:
        check_lora_base(student.teacher, student.contract)
    assert options.precision is not None
    # what is stored is rounded first (unless a LoRA is extracted): the comparison is with what the file holds
    with whole_folder(out, force) as part, quiet_libraries(), torch.no_grad():
        extracted = options.rank is not None
        held = student if extracted else rounded(student, options.precision, format.adapters, format.leaving(student))
        written = replace(format.write(held, part, options), precision=options.precision)
        # no path of this machine leaves it, and the contract travels with the weights
        forget_origins(part)
        student.contract.write(part)
        # the other tool loads the file and samples from the same noise; a difference ends the export. Rounded weights
        # are sampled before it, so that they do not lie in memory next to the tool's own
        expected = expected_latents(format, student, held)
        del held
        comparison = compare(format, written, part, student, expected)
        check_latents(format, written, comparison, student, options.precision)
        notes = (*written.notes, *comparison.notes)
        seconds, size_mb = round(time.monotonic() - begin, 2), _size_mb(part)
        exported = Exported(
            out, to, comparison.error, comparison.motion, size_mb, seconds, notes, options.precision, origin or {}
        )
        saved = {key: value for key, value in asdict(exported).items() if key != "folder"}
        (part / EXPORT_FILE).write_text(json.dumps(saved, indent=1) + "\n", "utf-8")
        card = model_card(student, format, written, exported, provenance)
        (part / "README.md").write_text(card, "utf-8")
    return exported


def _size_mb(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 3)
