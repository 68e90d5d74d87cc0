"""What a recipe's parts may say: data, student, stages, logging and gates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    TypeAdapter,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from fewstep.distill.objectives.base import Fraction, Settings
from fewstep.distill.objectives.registry import OBJECTIVES, AnyObjective
from fewstep.student.denoiser import Train
from fewstep.student.few_bits import FewBits
from fewstep.teacher.given import Prompt
from fewstep.teacher.guidance import GuidanceField
from fewstep.teacher.limited import (
    Amount,
    Decay,
    Items,
    Limit,
    NumClips,
    NumFrames,
    NumSteps,
    Pixels,
    Rank,
    Rate,
    SamplingSteps,
    StepsOrNone,
    Weight,
)
from fewstep.teacher.schedule import substeps_per_step
from fewstep.teacher.source import VideoSize, check_sizes, size_text

BASE_TEACHER = "base"  # the base teacher, among the names of stages
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # a signed 64-bit number, as Parquet stores it
StartTime = Annotated[float, Field(gt=0, le=1)]


def _find(path: Path, info: ValidationInfo) -> Path:
    """An existing path, looked for in `folders` of the validation context; without a context, as it is."""
    folders: tuple[Path, ...] = (info.context or {}).get("folders", ())
    existing = next((there for folder in folders if (there := folder / path.expanduser()).exists()), None)
    if folders and existing is None:
        places = " or ".join(dict.fromkeys(map(str, folders)))
        sought = f"there is no {path}" if path.is_absolute() else f"there is no {path} in {places}"
        remedy = "" if info.field_name == "given" else f", as in --set data.{info.field_name}=PATH"
        raise ValueError(f"{sought}: name one that exists{remedy}")
    return path if existing is None else existing.resolve()


Found = Annotated[Path, AfterValidator(_find)]
OutFolder = Annotated[Path, AfterValidator(Path.expanduser)]  # which need not exist


class Size(Settings):
    """Size of a clip."""

    num_frames: NumFrames
    """Frames of a clip."""
    height: Pixels
    """Pixels."""
    width: Pixels
    """Pixels."""

    def __str__(self) -> str:
        return size_text(self.plain)

    @property
    def plain(self) -> VideoSize:
        """As the teacher takes it."""
        return VideoSize(self.num_frames, self.height, self.width)


def _one_or_several(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """A plain union would list the mistakes of each of its parts."""
    if not isinstance(value, list | tuple):
        return handler(value) if value is None else Size.model_validate(value)
    sizes = TypeAdapter(tuple[Size, ...]).validate_python(value)
    check_sizes([size.plain for size in sizes])
    return sizes


SizeOrSizes = Annotated[Size | tuple[Size, ...] | None, WrapValidator(_one_or_several)]


class RolloutData(Settings):
    """The teacher's own guided samples: no real video is needed (arXiv 2403.12706)."""

    kind: Literal["rollouts"]
    """The teacher's own guided samples."""
    prompts: Found
    """A text file with one prompt per line, or a .jsonl file, whose lines may name files that are given with a prompt:
    {"prompt": "a dog runs", "first": "dog.png"}."""
    count: Items = 1
    """Samples per prompt, each from its own noise."""
    steps: SamplingSteps = 32
    """Teacher steps per sample."""
    guidance: GuidanceField = Field(5.0, validate_default=True)
    """Classifier-free guidance u + w (c - u) of the samples; 1 is none, 5@0.3-0.93 at these noise levels only."""
    seed: Seed = 0
    """Seed of the samples' noise."""
    batch: NumClips = 16
    """Samples per batch, as memory allows."""
    negative_prompt: str = ""
    """Prompt of the unconditional branch, here and where a stage is guided."""


class VideoData(Settings):
    """A folder of captioned videos."""

    kind: Literal["videos"]
    """A folder of captioned videos."""
    folder: Found
    """Video files, also in subfolders."""
    captions: Found | None = None
    """A .csv, .tsv or .jsonl table; without it clip.txt describes clip.mp4."""
    given: dict[str, str] | None = None
    """Inputs of clips besides captions: FIRST_FRAME or LAST_FRAME of the clip itself, or the caption column that names
    files, as in {first: FIRST_FRAME, control: depth_file}. Null: the first and last frames that the teacher
    needs."""
    batch: NumClips = 1
    """Clips that are encoded at once, as memory allows."""
    negative_prompt: str = ""
    """Prompt of the unconditional branch where a stage is guided."""
    min_usable: Fraction = 0.5
    """The run stops when a smaller fraction of the videos can be used."""


class DatasetData(Settings):
    """A dataset that `fewstep data` made with the same teacher."""

    kind: Literal["dataset"]
    """A dataset on disk."""
    folder: Found
    """The folder with its manifest.json."""
    min_usable: Fraction = 0.5
    """The run stops if a smaller fraction of the dataset's sources could be used."""


DataSettings = Annotated[RolloutData | VideoData | DatasetData, Field(discriminator="kind")]


class GivenPrompt(Settings):
    """A prompt with the files that are given with it."""

    prompt: str
    """What to show."""
    given: dict[str, Found]
    """Input files by name: {first: dog.png}."""


def _text_or_settings(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """A plain union would list the mistakes of each of its parts."""
    if isinstance(value, dict | GivenPrompt):
        return GivenPrompt.model_validate(value, context=info.context)
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "input should be text")
    return value


class LoraSettings(Settings):
    """Low-rank adapters (arXiv 2106.09685) in place of the whole network."""

    rank: Rank = 64
    """Rank of each adapter."""
    alpha: Amount = 64.0
    """Adapters are scaled by alpha / rank."""
    targets: tuple[str, ...] | None = None
    """Names of modules; null: every linear and convolution of the blocks, but neither in- and out-layers nor shared
    time embeddings."""


class StudentSettings(Settings):
    """Which part of the student is trained."""

    train: Train = "full"
    """The whole network, or LoRA adapters on it. A full stage after LoRA stages merges the adapters first."""
    only: str | None = None
    """The only part of the network to train, fully or with LoRA, if the teacher's family has one, such as motion (the
    motion modules of AnimateDiff). Null: all of it."""
    base: FewBits | None = None
    """Precision of the frozen weights under adapters in training: 8-bit, by torchao, or 4-bit, by bitsandbytes. The
    supervisor and the discriminator's backbone use the same weights. Null: as `precision` says."""
    lora: LoraSettings = LoraSettings()
    """The adapters."""


class Logging(Settings):
    """What a run logs and saves while it trains."""

    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    """Where curves, sample clips and the recipe are logged."""
    project: Annotated[str, Field(min_length=1)] = "fewstep"
    """The project of wandb or trackio; each run is one run there."""
    every: NumSteps = 10
    """Student steps between two points of a curve."""
    samples_every: NumSteps = 500
    """Student steps between two sets of sample clips."""
    prompts: tuple[Annotated[str | GivenPrompt, WrapValidator(_text_or_settings)], ...] = ()
    """Prompts of the sample clips; without any there are none. With files: {prompt: a dog runs, given: {first:
    dog.png}}."""
    decoder: Path | None = None
    """Run directory of a small decoder that decodes the sample clips instead of the teacher's autoencoder."""
    save_seconds: Amount = 120.0
    """Seconds between two checkpoints."""
    save_in_background: bool = False
    """Whether training continues while a checkpoint is written. It takes as much main memory as the checkpoint is
    large; the last one of a stage, and one that a signal asks for, are waited for."""

    @property
    def sampled(self) -> list[str]:
        """The prompts of the sample clips, with their files."""
        return [text if isinstance(text, str) else Prompt(text.prompt, text.given) for text in self.prompts]


class Gate(Settings):
    """What a stage's student must reach, or the run ends there."""

    metric: Literal["endpoint_error", "prompt_accuracy"]
    """How far the student lands from its teacher's endpoint, on twice as many clips as a batch has, 32 at most; or how
    often a clip shows what its caption says."""
    at_most: FiniteFloat | None = None
    """The metric's upper limit."""
    at_least: FiniteFloat | None = None
    """The metric's lower limit."""

    @model_validator(mode="after")
    def _one_limit(self) -> Gate:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("a gate has exactly one limit: give either at_most or at_least")
        return self

    def opens(self, value: float) -> bool:
        """Whether the metric reaches the limit; what is not a number does not."""
        above = self.at_least is None or value >= self.at_least
        below = self.at_most is None or value <= self.at_most
        return above and below

    @property
    def limit(self) -> str:
        """In words."""
        return f"at most {self.at_most:g}" if self.at_least is None else f"at least {self.at_least:g}"


class Conversion(Settings):
    """What a student that predicts eps is made to predict before its stage: one step from noise gives an error of eps
    sigma/alpha times as large in its clip (25 times with AnimateDiff's schedule)."""

    to: Literal["v", "x0"] = "v"
    """What it predicts afterwards."""
    steps: NumSteps = 200
    """Optimizer steps of regression on its own x0, with the stage's batch."""
    lr: Rate = 1e-4
    """Learning rate of that, Adam."""


_CONVERSION = ".conversion"


def conversion_name(stage: str) -> str:
    """Of a stage's conversion: its curve, checkpoint and progress. No stage can be called so."""
    return f"{stage}{_CONVERSION}"


def stage_of(name: str) -> str:
    """The stage of this name, or whose conversion is called so."""
    return name.removesuffix(_CONVERSION)


def _settings_or_false(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """A plain union would list the mistakes of each of its parts."""
    return handler(value) if value is None or value is False else Conversion.model_validate(value)


class Stage(Settings):
    """teacher_steps -> student_steps, with one objective and a budget."""

    name: str = ""
    """Unique; by default 4-step, 4-step-adversarial, 4-step-adversarial-2 ..."""
    teacher_steps: SamplingSteps
    """Steps of the supervisor, from noise to data."""
    student_steps: SamplingSteps
    """Steps of the student; they divide teacher_steps."""
    teacher: str | None = None
    """The supervisor: `base`, or the name of an earlier stage. Null: the last earlier stage with teacher_steps student
    steps, else the base teacher."""
    start: str | None = None
    """What the student is initialised from: `base`, or an earlier stage's student. Null: the stage before, so that
    stages follow one another; naming another one compares two ways from the same start."""
    guidance: GuidanceField = Field(1.0, validate_default=True)
    """Classifier-free guidance u + w (c - u) of the base teacher, baked into the student. Students take none. 1 is
    none; 5@0.3-0.93 is 5 at noise levels between these, and none at others (arXiv 2404.07724)."""
    train: Train | None = None
    """Null: as `student.train` says."""
    steps: NumSteps = 500
    """Optimizer steps of the student."""
    batch: NumClips = 16
    """Clips per step, over all processes: each takes an equal share, so the number of processes does not matter."""
    accumulate: NumClips = 1
    """Micro-batches that a step's clips are split into, as memory needs; each is shared by all processes."""
    lr: Rate = 2e-4
    """Learning rate of the student, Adam."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Adam's. If not set, an objective may have its own default: adversarial ones use 0 and 0.99, because adversarial
    training circles with momentum."""
    weight_decay: Weight = 0.0
    """Decoupled weight decay."""
    warmup: StepsOrNone = 20
    """Steps in which lr rises from 0."""
    cooldown: Fraction = 0.3
    """The last fraction of the steps, in which lr falls to 0."""
    clip: Limit = 1.0
    """Limit of the gradient's norm."""
    ema: Decay = 0.99
    """Decay of the student's EMA, which is the stage's result; 0 is no EMA."""
    starts: Annotated[tuple[StartTime, ...], Field(min_length=1)] | None = None
    """Where a step is learned from, as fractions of the grid before the teacher's shift: 1 is noise, 0.5 the middle
    node of two steps. From each the student goes to its next node below. Null: the student's own nodes."""
    expert: Literal["high", "low"] | None = None
    """For a teacher with two experts: the one to train, at its own nodes only; the other stays unchanged. Null: both,
    or the only network."""
    convert: Annotated[Conversion | Literal[False] | None, WrapValidator(_settings_or_false)] = None
    """What a student that predicts eps is converted to first. Null: to v for 1-step stages, else not. False: never; a
    1-step eps student is refused."""
    objective: AnyObjective
    """What is minimised."""
    gate: Gate | None = None
    """What the stage's student must reach."""

    @model_validator(mode="before")
    @classmethod
    def _betas_of_the_objective(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("betas") is not None:
            return values
        # settings are raw here, so that the objective is known by its kind alone
        objective = values.get("objective")
        kind = objective.get("kind") if isinstance(objective, dict) else getattr(objective, "kind", None)
        known = OBJECTIVES.get(kind) if isinstance(kind, str) else None
        return values if known is None else values | {"betas": known.default_betas}

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name == BASE_TEACHER or name.isdigit() or not re.fullmatch(r"(\w[\w-]*)?", name, re.ASCII):
            raise ValueError(
                f"{name!r} cannot name a stage: use letters, digits, - and _, but neither a number alone "
                f"nor {BASE_TEACHER}"
            )
        return name

    @model_validator(mode="after")
    def _divides(self) -> Stage:
        substeps_per_step(self.teacher_steps, self.student_steps)
        if self.batch % self.accumulate:
            raise ValueError(
                f"a batch of {self.batch} clips cannot be split into {self.accumulate} equal micro-batches: "
                "choose an `accumulate` that divides `batch`"
            )
        self.objective.check(self)
        return self

    @property
    def substeps(self) -> int:
        """Steps of the teacher that one step of the student replaces."""
        return substeps_per_step(self.teacher_steps, self.student_steps)

    def micro_batches(self, num_processes: int) -> int:
        """How many a step has: `accumulate`, or where so many processes would get no equal shares of each, as few as
        leave a process with no more clips at once than one alone has.

        Raises ValueError where they cannot share the batch equally.
        """
        if self.batch % num_processes:
            fitting = ", ".join(str(n) for n in range(1, self.batch + 1) if self.batch % n == 0)
            raise ValueError(
                f"stage {self.name}: {num_processes} processes cannot share a batch of {self.batch} clips equally: "
                f"start {fitting} processes, or change batch"
            )
        at_once = self.batch // self.accumulate
        if at_once % num_processes == 0:
            return self.accumulate
        share = max(n for n in range(1, at_once + 1) if self.batch % (n * num_processes) == 0)
        return self.batch // (share * num_processes)

    def share(self, num_processes: int) -> int:
        """Clips of a micro-batch that each process takes. Raises ValueError as `micro_batches` does."""
        return self.batch // (self.micro_batches(num_processes) * num_processes)
