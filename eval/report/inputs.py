"""What a report is made from: the results of evaluations and benchmarks, and what a run left on disk."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.guidance import GuidanceField

RESULTS = "results.json"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(_finite)]  # None: not there, or not finite


class FigureRecord(BaseModel):
    """A metric of a model with its 95 % interval, and the floor that no model can pass."""

    value: Number
    low: Number = None
    high: Number = None
    floor: Number = None
    num: int | None = None  # clips
    dimensions: int | None = None  # of a distance's features
    differing: int | None = None  # of a difference of shares: clips on which the two models differ
    reference_num: int | None = None  # clips that a distance is taken to
    unit: str = ""
    better: Literal["lower", "higher"] | None = None


class AskedRecord(BaseModel):
    """How a model, or a member of a chain, was asked for clips."""

    steps: int | None = None
    guidance: GuidanceField | None = None


class ModelRecord(AskedRecord):
    """A model of an evaluation."""

    model: str
    source: str = ""
    role: Literal["teacher", "student", "real"] = "student"
    evaluations: float | None = None
    chain: list[AskedRecord] = Field(default_factory=list)
    decoder: str | None = None
    videos: str | None = None
    metrics: dict[str, FigureRecord] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)


class Difference(BaseModel):
    """Figures of a model less those of another one: a paired bootstrap over the same prompts and noise."""

    model: str
    other: str
    metrics: dict[str, FigureRecord] = Field(default_factory=dict)


class EvaluationRecord(BaseModel):
    """results.json; the first model is the teacher that others are compared with."""

    command: str = ""
    protocol: dict[str, Any] = Field(default_factory=dict)
    rows: list[ModelRecord] = Field(min_length=1)
    differences: list[Difference] = Field(default_factory=list)
    prompts: list[str] = Field(default_factory=list)

    @field_validator("rows")
    @classmethod
    def _real_clips_last(cls, rows: list[ModelRecord]) -> list[ModelRecord]:
        return sorted(rows, key=lambda row: row.role == "real")

    @property
    def metrics(self) -> list[str]:
        """Every metric that any model has, in the order of the file."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def minus(self, model: str, other: str) -> dict[str, FigureRecord] | None:
        """The figures of a model less those of another one, whichever stood first; None where they were not taken."""
        for difference in self.differences:
            if (difference.model, difference.other) == (model, other):
                return difference.metrics
            if (difference.model, difference.other) == (other, model):
                return {name: _negative(figure) for name, figure in difference.metrics.items()}
        return None


def _negative(figure: FigureRecord) -> FigureRecord:
    value, low, high = (None if end is None else -end for end in (figure.value, figure.high, figure.low))
    return figure.model_copy(update={"value": value, "low": low, "high": high})


class Latency(BaseModel):
    """A model of a benchmark; seconds are medians, in `BenchmarkRecord` of a clip."""

    model: str
    source: str = ""
    guidance: GuidanceField | None = None
    decoder: str | None = None
    steps: int | None = None
    evaluations: float | None = None
    text_seconds: Number = None
    denoise_seconds: Number = None
    decode_seconds: Number = None
    total_seconds: Number = None
    total_seconds_p95: Number = None
    peak_gib: Number = None
    speedup: Number = None
    denoise_speedup: Number = None
    ideal_speedup: Number = None
    repetitions: int | None = None  # passes that the medians are of
    relative_error: Number = None  # of its clip to that before tuning
    psnr_db: Number = None  # likewise; None where both are equal


class OptionTrialRecord(BaseModel):
    """An option that a benchmark tried; seconds are medians of a pass without and with it."""

    option: str
    kept: bool
    why: str = ""
    seconds_without: Number = None
    seconds_with: Number = None
    relative_error: Number = None
    psnr_db: Number = None

    @property
    def speedup(self) -> float | None:
        """How many times faster; None where it could not be timed."""
        return self.seconds_without / self.seconds_with if self.seconds_without and self.seconds_with else None


class Fit(BaseModel):
    """Seconds = fixed + evaluations x per_evaluation (Amdahl)."""

    fixed_seconds: Number = None
    seconds_per_evaluation: Number = None


class BenchmarkRecord(BaseModel):
    """A file of `fewstep benchmark`, whose seconds are of a batch; here they are of a clip."""

    command: str = ""
    protocol: dict[str, Any] = Field(default_factory=dict)
    rows: list[Latency] = Field(min_length=1)
    fit: Fit | None = None
    failed: dict[str, str] = Field(default_factory=dict)  # model -> why it was not timed
    optimised: list[OptionTrialRecord] = Field(default_factory=list)  # where options that pay were looked for

    @model_validator(mode="after")
    def _of_a_clip(self) -> BenchmarkRecord:
        batch = self.protocol.get("batch", 1)
        records = [*self.rows, *self.optimised, *([] if self.fit is None else [self.fit])]
        for record in records if isinstance(batch, int) and batch > 1 else ():
            for name in type(record).model_fields:
                seconds = getattr(record, name)
                if "seconds" in name and seconds is not None:
                    setattr(record, name, seconds / batch)
        return self

    def is_of_size(self, evaluation: EvaluationRecord) -> bool:
        """Whether its clips are as large as the evaluation's; what one of them does not say is taken to be the same."""
        asked = [evaluation.protocol.get(side) for side in ("frames", "height", "width")]
        return None in asked or self.protocol.get("size") in (None, asked)

    def of(self, model: ModelRecord) -> Latency | None:
        """What a model costs; it may be called otherwise here, but is asked and decoded in the same way."""
        alike = [row for row in self.rows if _asked_alike(row, model)]
        named = (row for row in alike if row.model == model.model)
        return next(named, None) or next((row for row in alike if _same_source(row.source, model.source)), None)

    def has_timed(self, model: ModelRecord) -> bool:
        """Whether a row is of this model's own folder: its name may be that of another run's, too."""
        return any(_asked_alike(row, model) and _same_source(row.source, model.source) for row in self.rows)


class BandRecord(BaseModel):
    """Between which accuracies a discriminator has its usual turns; below it has `most`, above none."""

    low: float
    high: float
    most: int


class Judging(BaseModel):
    """What the discriminator of a stage judges, as its recipe says; absent in recipes before there was a choice."""

    real: str = "supervisor"
    judges: str = "endpoint"
    conditional: bool = True
    discriminator_steps: int = 1
    balance: BandRecord | None = None
    probe: int = 0  # steps for which fresh heads are trained; 0: none are


@dataclass(frozen=True)
class StageRecord:
    """A stage of a run: what it was to do, and what it has left so far."""

    name: str
    teacher_steps: int
    student_steps: int
    objective: str  # its kind, and behind a comma a variant of it
    steps: int  # planned
    gate: str = ""  # why it did not open, in words
    result: dict[str, Any] | None = None  # None until it is finished
    curve: list[dict[str, Any]] = field(default_factory=list)
    samples: Path | None = None  # its newest folder of clips
    start: str | None = None  # the stage whose student it starts from; None: the teacher
    regression: bool = False  # whether it does nothing but follow its supervisor
    judging: Judging | None = None  # where a discriminator judges

    @property
    def reached(self) -> int:
        """Steps that the curve knows of."""
        return int(self.curve[-1]["step"]) if self.curve else 0


@dataclass(frozen=True)
class RunRecord:
    """A run directory as a report reads it."""

    folder: Path
    teacher: str
    prompts: list[str]  # of the sample clips
    stages: list[StageRecord]
    seed: int | None = None


@dataclass(frozen=True)
class Comparison:
    """An evaluation's folder with the benchmark of the same models, if there is one."""

    folder: Path
    evaluation: EvaluationRecord
    benchmark: BenchmarkRecord | None = None

    def latency(self, model: ModelRecord) -> Latency | None:
        """What a model costs, if it was timed."""
        return self.benchmark.of(model) if self.benchmark else None


def _asked_alike(timed: Latency, model: ModelRecord) -> bool:
    """With the same steps, guidance and decoder; what an earlier version does not say is taken to be the same."""
    known = [(timed.steps, model.steps), (timed.guidance, model.guidance)]
    return timed.decoder == model.decoder and all(a == b or None in (a, b) for a, b in known)


def _same_source(first: str, other: str) -> bool:
    """A stage's folder, or its run's, or both the same."""
    one, two = (Path(source).expanduser().absolute() for source in (first, other))
    return bool(first and other) and (one == two or one / "stages" == two.parent or two / "stages" == one.parent)


def read_evaluation(folder: Path) -> EvaluationRecord:
    """results.json of a folder. Raises ValueError when it is not there or not whole."""
    path = folder / RESULTS
    if not path.is_file():
        raise ValueError(f"{folder} has no {RESULTS}: pass a folder that `fewstep evaluate` wrote")
    return _read(path, EvaluationRecord, "evaluate")


def read_benchmark(path: Path) -> BenchmarkRecord:
    """A benchmark's JSON. Raises ValueError when it is not there or not whole."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}: pass the JSON that `fewstep benchmark` wrote")
    return _read(path, BenchmarkRecord, "benchmark")


_Read = TypeVar("_Read", EvaluationRecord, BenchmarkRecord)


def _read(path: Path, kind: type[_Read], verb: str) -> _Read:
    try:
        return kind.model_validate(parse_json(path.read_text("utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        raise ValueError(f"{path} is not a file of `fewstep {verb}` ({where}): run that again") from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}): run `fewstep {verb}` again") from error
