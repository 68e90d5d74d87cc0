"""Students of a relay beside their teacher: one run, the same prompts, the same noise, floors on either side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fewstep.eval.feature_cache import cached_features
from fewstep.eval.metrics.shapes import Progress, ShapesJudgement, held_out_prompts
from fewstep.eval.results import ResultsFile, read_results
from fewstep.eval.sheet import comparison_sheet
from fewstep.eval.steps_table import (
    Protocol,
    check_world,
    figures,
    generate,
    real_row,
    reference_features,
    shared_figures,
)
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.shapes.judge import load_judge
from fewstep.teacher.video import to_uint8

REFERENCE_STEPS = 50
_OTHER_SEED = 500_009  # of the teacher's clips that others are held against: neither their prompts nor their noise

MODELS = ("real", "teacher", "student")
PHASES = ("", "start", "mse", "huber", "conditional", "relaxed", "final")

COLUMNS = {
    "model": "model",
    "steps": "steps",
    "guidance": "guidance",
    "phase": "phase",
    "shapes_fd": "shapes-fd",
    "low": "low",
    "high": "high",
    "teacher_fd": "to the teacher",
    "prompt_accuracy": "prompt accuracy",
    "train_seconds": "training seconds",
    "num": "N",
}
COLUMNS_OF_RUNS = {"run": "run", **COLUMNS}  # where a table compares several


@dataclass(frozen=True)
class Entry:
    """A row to be measured: the teacher at `steps` steps with this guidance, or a student that has it inside."""

    steps: int
    guidance: Guidance
    student: Student | None = None
    phase: str = ""
    train_seconds: float | None = None  # of the student's whole line, from the teacher on
    name: str = ""  # of its stage
    run: str = ""  # the run that the stage is of
    sha256: str = ""  # of its weights: a student that was trained again is measured again

    @property
    def key(self) -> dict[str, Any]:
        """What tells rows apart, beside what all share."""
        asked = {"steps": self.steps, "guidance": self.guidance.plain()}
        if self.student is None:
            return {"model": "teacher", **asked}
        row = {"model": "student", **asked, "phase": self.phase, "stage": self.name, "run": self.run}
        return row | {"weights_sha256": self.sha256}


class RelayTable:
    """The table on disk; rows that are there are not measured again.

    An outline of the teacher will do to see whether it can be made. Raises ValueError when the teacher is not of the
    shapes world, or `out` holds another teacher's, judge's or protocol's rows and is not to be made `fresh`.
    `dtype` is that of the denoisers, for the record. With `to_teacher`, distances to the 50-step teacher's own clips
    (other prompts and noise, the protocol's guidance) are taken as well; its own row at 50 steps is then the floor.
    """

    def __init__(
        self,
        teacher: Teacher,
        protocol: Protocol,
        command: str,
        out: Path,
        to_teacher: bool,
        dtype: str = "float32",
        columns: Mapping[str, str] = COLUMNS,
        fresh: bool = False,
    ) -> None:
        self._size = check_world(teacher)
        self.teacher, self.protocol = teacher, protocol
        self._to_teacher = to_teacher
        self._references: dict[str, Tensor] = {}
        self._shared = shared_figures(teacher, protocol)
        self._shared |= {"teacher_guidance": protocol.guidance.plain(), "to_teacher": to_teacher, "dtype": dtype}
        self._file = ResultsFile(out, command, self._shared, columns, fresh)

    def measure(self, entries: Sequence[Entry], progress: Progress) -> list[dict[str, Any]]:
        """The rows of real clips and of these entries, in this order; each is written as soon as it is measured."""
        real = self._file.find({"model": "real"}) or self._file.add(self._real(progress))
        return [real, *(self._found(entry, progress) for entry in entries)]

    def _found(self, entry: Entry, progress: Progress) -> dict[str, Any]:
        found = self._file.find(entry.key)
        if found is not None:
            return found
        # what the run had here before: the stage with other weights, or another stage that was its line's last
        changed = {"weights_sha256", "stage"} if entry.phase == "final" else {"weights_sha256"}
        before = {key: value for key, value in entry.key.items() if key not in changed}
        return self._file.add(self._row(entry, progress), _place, instead_of=before)

    def _real(self, progress: Progress) -> dict[str, Any]:
        return real_row(self.protocol, self._real_reference(progress), progress)

    def _row(self, entry: Entry, progress: Progress) -> dict[str, Any]:
        twin = self._file.find({key: value for key, value in entry.key.items() if key != "phase"})
        if twin is not None:  # the same student, which is the last of its step count as well
            return {**twin, **entry.key}
        label = f"{entry.steps} steps {entry.name}".strip()
        judgement = self._judge(entry, self.protocol.seed, label, progress)
        row = entry.key | figures(judgement, self.protocol, self._real_reference(progress))
        if self._to_teacher:
            distance = judgement.distance(self._teacher_reference(progress))
            row |= {"teacher_fd": round(distance.value, 3), "teacher_low": round(distance.low, 3)}
            row |= {"teacher_high": round(distance.high, 3)}
        if entry.train_seconds is not None:
            row["train_seconds"] = round(entry.train_seconds, 1)
        return row

    @torch.no_grad()
    def _judge(self, entry: Entry, seed: int, label: str, progress: Progress) -> ShapesJudgement:
        """Clips of `num` held-out prompts; prompts and noise follow from the seed alone."""
        protocol, judgement = self.protocol, ShapesJudgement(load_judge(device=str(self.teacher.device)))
        prompts = held_out_prompts(protocol.num, seed)
        for start in range(0, protocol.num, protocol.batch):
            some = prompts[start : start + protocol.batch]
            videos = self.generate(entry, some, replace(protocol, seed=seed).noise_seeds(start, len(some)))
            judgement.update(videos.cpu(), some)
            progress(label, start + len(some), protocol.num)
        return judgement

    def generate(self, entry: Entry, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        """Videos (B, 3, F, H, W) in -1..1 of one entry."""
        if entry.student is None:
            return generate(self.teacher, prompts, seeds, entry.steps, entry.guidance)
        z = self.teacher.noise(seeds, self.teacher.latent_shape(*self._size))
        return self.teacher.decode(entry.student.sample(z, self.teacher.conditions(prompts)))

    def _real_reference(self, progress: Progress) -> Tensor:
        if "real" not in self._references:
            clips = {"clips": "real", "num": self.protocol.reference, "judge_sha256": self._shared["judge_sha256"]}
            self._references["real"] = cached_features(clips, lambda: reference_features(self.protocol, progress))
        return self._references["real"]

    def _teacher_reference(self, progress: Progress) -> Tensor:
        """Features of the teacher's clips of other prompts and noise: the dearest part of a table, so they are kept."""
        if "teacher" not in self._references:
            seed = self.protocol.seed + _OTHER_SEED
            clips = {"clips": "teacher's", "steps": REFERENCE_STEPS, "seed": seed, **self._shared}

            def compute() -> Tensor:
                return self._judge(
                    Entry(REFERENCE_STEPS, self.protocol.guidance), seed, "the teacher's other clips", progress
                ).features()

            self._references["teacher"] = cached_features(clips, compute)
        return self._references["teacher"]


def begun_dtype(out: Path) -> str | None:
    """The precision of the rows that `out` holds; None where there is no such table."""
    rows = read_results(out)[1] if out.exists() else []
    return next((str(row["dtype"]) for row in rows if "dtype" in row), None)


def _place(row: Mapping[str, Any]) -> tuple[int, int, bool, int]:
    """Real clips, the teacher, then students; many steps before few; the protocol's guidance before others; phases as
    they follow one another."""
    other = row.get("guidance") != row.get("teacher_guidance")
    return MODELS.index(row["model"]), -row.get("steps", 0), other, PHASES.index(row.get("phase", ""))


def teacher_entries(counts: Sequence[int], guidance: Guidance, students: Sequence[Entry]) -> list[Entry]:
    """The teacher at these step counts, and at 50 steps with every other guidance that a student has inside."""
    others = [each for each in dict.fromkeys(entry.guidance for entry in students) if each != guidance]
    return [Entry(count, guidance) for count in counts] + [Entry(REFERENCE_STEPS, other) for other in others]


@torch.no_grad()
def relay_sheet(table: RelayTable, entries: Sequence[Entry], rows: int = 6) -> Image.Image:
    """The first clips side by side: a row per prompt, a column for the teacher's counts and what students became."""
    prompts, seeds = held_out_prompts(rows, table.protocol.seed), table.protocol.noise_seeds(0, rows)
    columns = {}
    for entry in entries:
        if entry.phase not in ("", "mse", "final"):
            continue
        if entry.student is None and entry.guidance != table.protocol.guidance:
            continue
        name = entry.name or f"teacher, {entry.steps} step{'s' * (entry.steps > 1)}"
        columns[name] = [to_uint8(video) for video in table.generate(entry, prompts, seeds)]
    return comparison_sheet(columns, prompts)
