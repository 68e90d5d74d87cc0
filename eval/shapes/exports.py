"""What students lose on their way into other tools' formats: every format of every student, measured in that tool."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fewstep.eval.metrics.shapes import Progress, ShapesJudgement, check_world, held_out_prompts
from fewstep.eval.results import ResultsFile
from fewstep.eval.shapes.steps import Protocol, reference_features, row_figures, shared_figures
from fewstep.student.export.base import Options, SampleLatents, find_format, formats_of
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.student.weights import weights_sha256
from fewstep.teacher.loading import quiet_libraries
from fewstep.teacher.shapes.judge import load_judge

OWN = "fewstep"  # the student itself, by our own sampler: what the formats are compared with

EXPORT_COLUMNS = {
    "format": "format",
    "kind": "kind",
    "library": "loads in",
    "relative_error": "relative latent error",
    "motion": "motion",
    "size_mb": "MB",
    "seconds": "seconds / clip",
    "shapes_fd": "shapes-fd",
    "low": "low",
    "high": "high",
    "prompt_accuracy": "prompt accuracy",
    "num": "N",
}


@dataclass(frozen=True)
class ExportEntry:
    """A row to be measured: a student, by how it was trained, in one format. `size_mb` is that of its own weights."""

    student: Student
    format: str
    size_mb: float
    sha256: str = ""  # of its weights: a student that was trained again is measured again

    @property
    def place(self) -> dict[str, Any]:
        """What tells the rows of a table apart."""
        return {"format": self.format, "kind": self.student.contract.weights, "steps": self.student.contract.steps}

    @property
    def key(self) -> dict[str, Any]:
        """The same, of these very weights."""
        return self.place | {"weights_sha256": self.sha256}


class ExportTable:
    """The table on disk; rows that are there are not measured again.

    `exports` is the folder that the exports are written into and stay in. Outlines of students will do to see whether
    it can be made. Raises ValueError when the students are not of the shapes world, of several teachers, or alike in
    kind and steps, or `out` holds rows of another protocol and is not to be made `fresh`.
    """

    def __init__(
        self,
        students: Sequence[Student],
        protocol: Protocol,
        command: str,
        out: Path,
        exports: Path,
        fresh: bool = False,
    ) -> None:
        teacher = students[0].teacher
        check_world(teacher)
        if len({student.contract.teacher_sha256 for student in students}) > 1:
            raise ValueError("these students have different teachers: one table holds students of one teacher")
        known = [(student.contract.weights, student.contract.steps) for student in students]
        if twice := next((one for one in known if known.count(one) > 1), None):
            raise ValueError(
                f"two of these students are {twice[0]} students of {twice[1]} steps, which a table does not tell "
                "apart: measure one at a time, each with an --out and --exports of its own"
            )
        self._protocol, self._exports = protocol, exports
        self._reference: torch.Tensor | None = None
        self._file = ResultsFile(out, command, shared_figures(teacher, protocol), EXPORT_COLUMNS, fresh)

    def measure(self, entries: Sequence[ExportEntry], progress: Progress, refused: Callable[[str], None]) -> list[Any]:
        """The rows of these entries, each written as soon as it is measured.

        A student that a format refuses has no row; `refused` gets the reason.
        """
        rows = []
        for entry in entries:
            try:
                row = self._file.find(entry.key)
                rows.append(row or self._file.add(self._row(entry, progress), instead_of=entry.place))
            except ValueError as error:
                refused(f"{entry.format} of the {entry.key['kind']} student: {error}")
        return rows

    def _row(self, entry: ExportEntry, progress: Progress) -> dict[str, Any]:
        if entry.format == OWN:
            # the student in its own sampler: what formats are compared with
            own: dict[str, Any] = {"library": OWN, "relative_error": 0.0, "size_mb": entry.size_mb}
            return entry.key | own | self._judged(entry, _own_latents(entry.student), progress)
        kind, steps = entry.key["kind"], entry.key["steps"]
        exact = "float32" in find_format(entry.format).precisions  # the format is measured, not rounding
        options = Options(precision="float32" if exact else None)
        folder = self._exports / f"{kind}-{steps}step-{entry.format}"
        done = write_export(entry.student, entry.format, folder, options, force=True)
        format = find_format(entry.format)
        measured = {
            "library": format.library,
            "relative_error": done.relative_error,
            "size_mb": done.size_mb,
            "export_seconds": done.seconds,
        }
        if done.motion is not None:
            measured["motion"] = round(done.motion, 4)
        with quiet_libraries():
            latents = format.reload(done.folder, entry.student)
            return entry.key | measured | self._judged(entry, latents, progress)

    @torch.no_grad()
    def _judged(self, entry: ExportEntry, latents: SampleLatents, progress: Progress) -> dict[str, Any]:
        """shapes-fd and accuracy of the other tool's clips, and its seconds from prompt to latents, clip by clip."""
        teacher, protocol, seconds = entry.student.teacher, self._protocol, 0.0
        judgement = ShapesJudgement(load_judge(device=str(teacher.device)))
        label = f"{entry.format}, {entry.key['kind']}"
        shape = teacher.latent_shape(*entry.student.contract.size)
        # the same prompts and noise in every format, so that differences are the format's own
        for i, prompt in enumerate(held_out_prompts(protocol.num, protocol.seed)):
            z = teacher.noise(protocol.noise_seeds(i, 1), shape)
            begin = time.perf_counter()
            sampled = latents(z, [prompt]).to(teacher.device).cpu().to(teacher.device)  # a copy waits for the GPU
            seconds += time.perf_counter() - begin
            judgement.update(teacher.decode(sampled).cpu(), [prompt])
            progress(label, i + 1, protocol.num)
        if self._reference is None:
            self._reference = reference_features(protocol, progress)
        return {"seconds": round(seconds / protocol.num, 4), **row_figures(judgement, protocol, self._reference)}


def entries_of(student: Student, weights: Path) -> list[ExportEntry]:
    """The student itself, then every format that can hold it. `weights` is its stage's folder."""
    size_mb = sum(path.stat().st_size for path in weights.glob("*.safetensors")) / 1e6
    sha256 = weights_sha256(weights)
    return [ExportEntry(student, name, round(size_mb, 3), sha256) for name in (OWN, *formats_of(student.teacher))]


def missing_formats(student: Student, weights: Path) -> list[str]:
    """Sentences about formats that will have no row, since a library of theirs is missing; an outline will do."""
    missing = []
    for entry in entries_of(student, weights):
        try:
            if entry.format != OWN:
                find_format(entry.format).check_needs()
        except ValueError as error:
            missing.append(f"{entry.format} of the {entry.key['kind']} student: {error}")
    return missing


def _own_latents(student: Student) -> SampleLatents:
    return lambda z, prompts: student.sample(z, student.conditions_of_any(prompts))
