"""Students of a relay next to their teacher: one run, the same prompts, the same noise, floors on either side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fewstep.eval.metrics.frechet import frechet_interval
from fewstep.eval.metrics.shapes import Progress, held_out_prompts
from fewstep.eval.results import ResultsFile, read_results
from fewstep.eval.shapes.relay_clips import DIVERSE_SEEDS, Judged, RelayClips
from fewstep.eval.shapes.relay_comparisons import (
    BASELINE,
    OF_DELTA,
    baseline_of,
    minus_baseline,
    multiple,
    over_teacher,
    teacher_row_of,
)
from fewstep.eval.shapes.relay_entry import RelayEntry
from fewstep.eval.shapes.relay_seeds import OVER_SEEDS, rows_over_seeds
from fewstep.eval.shapes.sheet import comparison_sheet
from fewstep.eval.shapes.steps import Protocol, judged_figures, shared_figures
from fewstep.teacher.base import Teacher

DIVERSE_PROMPTS = 16  # that diversity is taken over, unless said otherwise

MODELS = ("real", "teacher", "student", OVER_SEEDS)
PHASES = ("", "start", "mse", "huber", "conditional", "relaxed")  # others follow, then FINAL
FINAL = "final"

RELAY_COLUMNS = {
    "model": "model",
    "steps": "steps",
    "guidance": "guidance",
    "phase": "phase",
    "stage": "stage",
    "shapes_fd low high": "shapes-fd",
    "delta delta_low delta_high": "shapes-fd minus mse",
    "ratio ratio_low ratio_high": "shapes-fd / teacher",
    "teacher_fd": "to the teacher",
    "prompt_accuracy": "prompt accuracy",
    "accuracy_delta accuracy_delta_low accuracy_delta_high": "accuracy minus mse, points",
    "motion": "motion / real",
    "motion_to_teacher": "motion / teacher",
    "diversity": "diversity / teacher",
    "fresh_before": "fresh heads before",
    "fresh_after": "fresh heads after",
    "train_seconds": "training seconds",
    "num": "N",
}
COLUMNS_OF_RUNS = {
    "run": "run",
    **RELAY_COLUMNS,
    "recipe_seed": "seed",
    "num_seeds": "seeds",
}  # where a table compares several


class RelayTable:
    """The table on disk; rows that are there are not measured again, and what was found of their clips is kept.

    An outline of the teacher will do to see whether it can be made. Raises ValueError when the teacher is not of the
    shapes world, or `out` holds another teacher's, judge's or protocol's rows and is not to be made `fresh`.
    `dtype` is that of the denoisers, for the record. With `to_teacher`, distances to the 50-step teacher's own clips
    (other prompts and noise, the protocol's guidance) are taken as well; its own row at 50 steps is then the floor.
    `diverse` prompts get 8 clips each, for diversity; with 0 there is none.
    """

    def __init__(
        self,
        teacher: Teacher,
        protocol: Protocol,
        command: str,
        out: Path,
        to_teacher: bool,
        dtype: str = "float32",
        columns: Mapping[str, str] = RELAY_COLUMNS,
        fresh: bool = False,
        diverse: int = DIVERSE_PROMPTS,
    ) -> None:
        self.teacher, self.protocol, self.columns = teacher, protocol, columns
        self.notes: list[str] = []  # what could not be compared, in sentences
        self._to_teacher = to_teacher
        shared = shared_figures(teacher, protocol)
        shared |= {"teacher_guidance": protocol.guidance.plain(), "to_teacher": to_teacher, "dtype": dtype}
        self.clips = RelayClips(teacher, protocol, shared, diverse)
        shared |= {"diversity_prompts": diverse, "diversity_seeds": DIVERSE_SEEDS}
        self._file = ResultsFile(out, command, shared, columns, fresh)

    def measure(self, entries: Sequence[RelayEntry], progress: Progress) -> list[dict[str, Any]]:
        """The rows of real clips and of these entries, in this order, and those over seeds.

        Each is written as soon as it is measured; then all rows of the table are compared with each other.
        """
        # other real clips are the floor of every distance
        if self._file.find({"model": "real"}) is None:
            self._file.add(self._real(progress), _place)
        for entry in entries:
            row = self._file.find(entry.key)
            if row is None:
                self._add(entry, progress)
            else:
                self._file.change(row, entry.run_facts)
        self._compare(entries, progress)
        rows = [self._file.find(key) for key in ({"model": "real"}, *(entry.key for entry in entries))]
        return [row for row in (*rows, *self._over_seeds(entries, progress)) if row is not None]

    def _add(self, entry: RelayEntry, progress: Progress) -> None:
        # what the run had here before: the stage with other weights, or another stage that was its line's last
        changed = {"weights_sha256", "stage"} if entry.phase == FINAL else {"weights_sha256"}
        before = {key: value for key, value in entry.key.items() if key not in changed}
        row = self._row(entry, progress) | {key: value for key, value in entry.run_facts.items() if value is not None}
        self._file.add(row, _place, instead_of=before)

    def _real(self, progress: Progress) -> dict[str, Any]:
        clips = self.clips.real(progress)
        row = {"model": "real"} | judged_figures(clips.distance.interval, clips.agreements)
        return row | multiple("motion", clips.motion, self.clips.real_motion(progress))

    def _row(self, entry: RelayEntry, progress: Progress) -> dict[str, Any]:
        clips = self.clips.judged(entry.key, entry, progress)
        assert clips is not None
        row = entry.key | judged_figures(clips.distance.interval, clips.agreements)
        row |= multiple("motion", clips.motion, self.clips.real_motion(progress))
        if self._to_teacher:
            distance = frechet_interval(clips.features, self.clips.teacher_reference(progress))
            row |= {"teacher_fd": round(distance.value, 3), "teacher_low": round(distance.low, 3)}
            row |= {"teacher_high": round(distance.high, 3)}
        return row

    def _compare(self, entries: Sequence[RelayEntry], progress: Progress) -> None:
        """Adds to every row what it lacks of its comparisons, also to those of earlier calls."""
        for row in [row for row in self._file.rows if row["model"] != OVER_SEEDS]:
            teacher, baseline = teacher_row_of(row, self._file.rows), baseline_of(row, self._file.rows)
            if teacher is not None and "ratio" not in row:
                pair = self._pair(row, teacher, entries, progress)
                row = self._file.change(row, over_teacher(*pair)) if pair else row
            # its baseline may have been measured, or trained again, since the delta was taken
            if (baseline or {}).get("weights_sha256") != row.get("delta_to_sha256"):
                pair = self._pair(row, baseline, entries, progress) if baseline else None
                figures = minus_baseline(row, pair[0], baseline, pair[1]) if pair and baseline else {}
                self._file.change(row, dict.fromkeys(OF_DELTA) | figures)

    def _pair(
        self, row: dict[str, Any], other: Mapping[str, Any], entries: Sequence[RelayEntry], progress: Progress
    ) -> tuple[Judged, Judged] | None:
        pair = []
        for entry in (row, other):
            judged = self._judged(entry, entries, progress)
            if judged is None:
                self.notes.append(
                    f"{_called(row)} is not compared with {_called(other)}: the features of {_called(entry)} are not "
                    f"on "
                    "disk any more, and it was not asked for now; ask for both"
                )
                return None
            pair.append(judged)
        return pair[0], pair[1]

    def _judged(self, row: Mapping[str, Any], entries: Sequence[RelayEntry], progress: Progress) -> Judged | None:
        entry = next((entry for entry in entries if entry.key.items() <= row.items()), None)
        return self.clips.judged(row, entry, progress)

    def _over_seeds(self, entries: Sequence[RelayEntry], progress: Progress) -> list[dict[str, Any]]:
        before = [row for row in self._file.rows if row["model"] == OVER_SEEDS]
        rows = [row for row in self._file.rows if row["model"] != OVER_SEEDS]
        means = rows_over_seeds(rows, lambda row: self._judged(row, entries, progress), before)
        return self._file.replace({"model": OVER_SEEDS}, means)


def recorded_table_dtype(out: Path) -> str | None:
    """The precision of the rows that `out` holds; None where there is no such table."""
    rows = read_results(out)[1] if out.exists() else []
    return next((str(row["dtype"]) for row in rows if "dtype" in row), None)


def _place(row: Mapping[str, Any]) -> tuple[int, int, bool, int]:
    """Real clips, the teacher, then students; many steps before few; the protocol's guidance before others; phases as
    they follow one another."""
    other, phase = row.get("guidance") != row.get("teacher_guidance"), row.get("phase", "")
    place = PHASES.index(phase) if phase in PHASES else len(PHASES) + (phase == FINAL)
    return MODELS.index(row["model"]), -row.get("steps", 0), other, place


def _called(row: Mapping[str, Any]) -> str:
    return f"{row['run']}/{row['stage']}" if "stage" in row else f"the {row['steps']}-step teacher"


def relay_sheet(table: RelayTable, entries: Sequence[RelayEntry], rows: int = 6) -> Image.Image:
    """The first clips side by side: a row per prompt, a column for the teacher's counts and what students became.

    Those are regression alone and a line's last stage; where that is not among the entries, the others of its line.
    """
    prompts = held_out_prompts(rows, table.protocol.seed)
    runs = {entry.run for entry in entries if entry.run}
    ended = {_line(entry) for entry in entries if entry.phase == FINAL}
    columns = {}
    for entry in entries:
        if entry.phase not in ("", BASELINE, FINAL) and _line(entry) in ended:
            continue
        if entry.student is None and entry.guidance != table.protocol.guidance:
            continue
        name = entry.name or f"teacher, {entry.steps} step{'s' * (entry.steps > 1)}"
        if entry.run and len(runs) > 1:
            name = f"{Path(entry.run).name}/{name}"
        columns[name] = table.clips.shown(entry, rows)
    return comparison_sheet(columns, prompts)


def _line(entry: RelayEntry) -> tuple[object, ...]:
    return entry.run, entry.steps, entry.guidance
