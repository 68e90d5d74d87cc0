"""The recipe of a distillation: how a teacher of many steps becomes a student of few, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError, field_validator, model_validator
from pydantic_core import to_jsonable_python

from fewstep.distill.data_recipe import DataRecipe
from fewstep.distill.health import Watch
from fewstep.distill.objectives.supervision import nodes_of, supervisor_times, trained_starts
from fewstep.distill.optimizers import OptimizerKind, has_few_bits
from fewstep.distill.overrides import apply, stage_names
from fewstep.distill.packaged import RECIPES, find_recipe
from fewstep.distill.parallel import Parallel
from fewstep.distill.settings import (
    BASE_TEACHER,
    DatasetData,
    DataSettings,
    Gate,
    Logging,
    LoraSettings,
    RolloutData,
    Size,
    Stage,
    StudentSettings,
    VideoData,
)
from fewstep.distill.validation_errors import error_sentences
from fewstep.student.average import AveragePlace
from fewstep.student.denoiser import Train
from fewstep.student.recompute import Recompute
from fewstep.teacher.denoiser_inputs import ControlScaleField
from fewstep.teacher.files.yaml_text import load_yaml
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.limited import EmbeddedGuidance, TimeShift

__all__ = [
    "DataSettings",
    "DatasetData",
    "Gate",
    "Logging",
    "LoraSettings",
    "Parallel",
    "Recipe",
    "RolloutData",
    "Size",
    "Stage",
    "StudentSettings",
    "VideoData",
    "Watch",
    "make_recipe",
    "read_recipe",
    "recipe_schema",
]

_OF_A_TEACHER = {"world", "judge", "autoencoder", "denoiser"}  # the recipe that `fewstep teacher train` follows


class Recipe(DataRecipe):
    """A teacher, its data, a student and the stages of the relay. Each stage's student starts the next stage."""

    bases: tuple[str, ...] = ()
    """Further base models, folders or hub ids, around which the part that `student.only` names is trained as well: each
    has its own clips, and every batch is of one of them. Of an AnimateDiff teacher image models will do."""
    gradient_checkpointing: Recompute = False
    """Recomputes activations in the backward pass: slower, with less memory. selective: all but the results of torch's
    attention kernels, which is faster than true and takes more memory."""
    optimizer: OptimizerKind = "adamw"
    """AdamW, of student and discriminator: in one fused kernel (adamw_fused), or with moments in 8 or 4 bits by torchao
    (adamw8bit, adamw4bit)."""
    average: Literal["device", "cpu"] = "device"
    """Where the EMA of a student is kept; cpu: in main memory. A stage with `ema: 0` keeps none."""
    shift: TimeShift | None = None
    """Timestep shift towards noise, for teacher and student alike; null: the scheduler's own, 1: none."""
    embedded_guidance: EmbeddedGuidance | None = None
    """Guidance for denoisers that take it as an input, for teacher and student alike; null: the pipeline's own."""
    control_scale: ControlScaleField | None = None
    """Scale of the control branch, for teacher and student alike: a number, or a list with one for each control layer;
    null: the pipeline's own, 1."""
    parallel: Parallel = Parallel()
    """How several processes hold the networks."""
    student: StudentSettings = StudentSettings()
    """Which part of the student is trained."""
    watch: Watch = Watch()
    """What a student must look like while it trains, and what happens if it does not."""
    logging: Logging = Logging()
    """What a run logs and saves."""
    stages: tuple[Stage, ...]
    """The relay, in order."""

    @field_validator("teacher", "bases", mode="before")
    @classmethod
    def _paths_as_text(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [str(path) if isinstance(path, Path) else path for path in value]
        return str(value) if isinstance(value, Path) else value

    @model_validator(mode="before")
    @classmethod
    def _name_stages(cls, values: Any) -> Any:
        stages = values.get("stages") if isinstance(values, dict) else None
        if not isinstance(stages, list | tuple):
            return values
        plain = [dict(stage) if isinstance(stage, Stage) else stage for stage in stages]
        named = zip(plain, stage_names(plain), strict=True)
        return values | {"stages": [s | {"name": name} if isinstance(s, dict) else s for s, name in named]}

    @model_validator(mode="after")
    def _relay_holds(self) -> Recipe:
        if not self.stages:
            raise ValueError("stages is empty: a relay has at least one")
        wrong = [*self._base_model_errors(), *self.few_bit_errors()]
        wrong += [sentence for index in range(len(self.stages)) for sentence in self._mistakes(index)]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _base_model_errors(self) -> list[str]:
        """What further base models do not go together with."""
        wrong = []
        if self.bases and self.student.only is None:
            wrong.append("bases: several base models share a part that is trained alone: name it as student.only")
        if self.bases and isinstance(self.data, DatasetData):
            wrong.append("bases: each base model has its own clips, and a dataset is of one: use rollouts or videos")
        if len({self.teacher, *self.bases}) <= len(self.bases):
            wrong.append("bases: a base model is named twice, or is the teacher: name each once")
        return wrong

    def few_bit_errors(self) -> list[str]:
        """What weights or moments of few bits do not go together with."""
        wrong, base = list[str](), self.student.base
        if has_few_bits(self.optimizer) and self.parallel.kind == "fsdp" and self.parallel.offload == "cpu":
            wrong.append(
                f"optimizer: {self.optimizer} keeps moments in blocks, which stay on the GPU: use adamw or adamw_fused "
                "with parallel.offload=cpu, or parallel.offload=none"
            )
        if base is None:
            return wrong
        # few-bit weights stay frozen: adapters on them may be trained, but neither whole networks nor copies of them
        if full := [stage.name for index, stage in enumerate(self.stages) if self.train_of(index) == "full"]:
            wrong.append(
                f"student.base is {base}, and {', '.join(full)} trains whole networks, which few bits are too coarse "
                "for: set train to lora, or leave student.base out"
            )
        if copying := [stage.name for stage in self.stages if stage.objective.trains_copy]:
            wrong.append(
                f"student.base is {base}, and {', '.join(copying)} trains a whole copy of the teacher's network, which "
                "few bits are too coarse for: set objective.discriminator.backbone to frozen or lora, or leave "
                "student.base out"
            )
        return wrong

    def teacher_of(self, index: int) -> int | None:
        """The stage whose student supervises stage `index`; None: the base teacher."""
        stage, earlier = self.stages[index], self.stages[:index]
        if stage.teacher == BASE_TEACHER:
            return None
        if stage.teacher is not None:
            return [other.name for other in earlier].index(stage.teacher)
        # by default the latest student of that step count supervises, as in progressive distillation (arXiv 2202.00512)
        fitting = [i for i, other in enumerate(earlier) if other.student_steps == stage.teacher_steps]
        return fitting[-1] if fitting else None

    def start_of(self, index: int) -> int | None:
        """The stage whose student stage `index` starts from; None: the base teacher."""
        start = self.stages[index].start
        if start == BASE_TEACHER or index == 0:
            return None
        return index - 1 if start is None else [other.name for other in self.stages[:index]].index(start)

    def dependent_stages(self, names: Sequence[str]) -> list[int]:
        """The stages of these names, and those that start from them or are taught by them, directly or not, in order.

        Raises ValueError for a name that none has.
        """
        dependent = set(self._indices_of(names))
        # one pass is enough, since stages refer to earlier ones only
        for index in range(len(self.stages)):
            if {self.start_of(index), self.teacher_of(index)} & dependent:
                dependent.add(index)
        return sorted(dependent)

    def stages_under(self, names: Sequence[str]) -> list[str]:
        """The stages of these names, and those that they start from or are taught by, directly or not, in order.

        Raises ValueError for a name that none has.
        """
        under = set(self._indices_of(names))
        for index in range(len(self.stages) - 1, -1, -1):
            if index in under:
                under |= {base for base in (self.start_of(index), self.teacher_of(index)) if base is not None}
        return [stage.name for index, stage in enumerate(self.stages) if index in under]

    def _indices_of(self, names: Sequence[str]) -> list[int]:
        every = [stage.name for stage in self.stages]
        if unknown := [name for name in names if name not in every]:
            raise ValueError(f"there is no stage {unknown[0]}: the recipe has {', '.join(every)}")
        return [every.index(name) for name in names]

    def guidance_in(self, index: int) -> Guidance:
        """The guidance inside stage `index`'s student: its own where the base teaches it, else its teacher's; where
        nobody teaches it, that of the student that it starts from."""
        stage, teacher = self.stages[index], self.teacher_of(index)
        if not stage.objective.learns_from_supervisor(stage.student_steps):
            start = self.start_of(index)
            return Guidance() if start is None else self.guidance_in(start)
        return stage.guidance if teacher is None else self.guidance_in(teacher)

    def compared_guidance(self, index: int) -> Guidance:
        """The guidance of the supervisor that stage `index`'s student is measured against: of a base teacher that
        teaches it nothing, as in a stage of clips alone, that inside the student."""
        stage = self.stages[index]
        teaches = stage.objective.learns_from_supervisor(stage.student_steps) or self.teacher_of(index) is not None
        return stage.guidance if teaches else self.guidance_in(index)

    def _trained_at(self, index: int) -> set[float]:
        """At which times, before the shift, the student of stage `index` was trained: in this stage, or in those of
        the same step count that it started from."""
        stage, start = self.stages[index], self.start_of(index)
        times = trained_starts(stage.student_steps, stage.starts)
        if start is not None and self.stages[start].student_steps == stage.student_steps:
            times |= self._trained_at(start)
        return times

    def keeps_adapters(self, index: int) -> bool:
        """Whether stage `index` ends in an adapter on the teacher, not in a whole network."""
        start = self.start_of(index)
        return self.train_of(index) == "lora" and (start is None or self.keeps_adapters(start))

    def phases_of(self, index: int) -> tuple[str, ...]:
        """The phase of the method that a stage is, by the names that tables use.

        They are the objective's own, such as `mse`, `conditional` or `relaxed`. But regression is `start` if another
        stage starts from it that is alike: with the same step count and baked-in guidance. And the last one alike that
        is not regression is `final` as well.
        """
        stage, guidance = self.stages[index], self.guidance_in(index)
        phase = stage.objective.phase
        alike = [
            i
            for i, other in enumerate(self.stages)
            if other.student_steps == stage.student_steps and self.guidance_in(i) == guidance
        ]
        # regression that an alike stage starts from is a start; alone it is the baseline that tables compare with
        if stage.objective.is_regression:
            return ("start" if index in map(self.start_of, alike) else phase,)
        # of alike adversarial stages, conditional before relaxed, the last one's student is the result
        last = [i for i in alike if not self.stages[i].objective.is_regression][-1]
        return (phase, "final") if index == last else (phase,)

    def train_of(self, index: int) -> Train:
        """Whether stage `index` trains the whole network or adapters."""
        return self.stages[index].train or self.student.train

    def average_of(self, index: int) -> AveragePlace:
        """Where the EMA of stage `index`'s student is kept."""
        return self.average if self.stages[index].ema > 0 else "none"

    def _mistakes(self, index: int) -> list[str]:
        """What the stages say that does not go together."""
        stage, earlier, place = self.stages[index], self.stages[:index], f"stages.{index}"
        names = [other.name for other in earlier]
        wrong = []
        # names: each stage has its own, and refers to earlier ones only
        if stage.name in names:
            wrong.append(
                f"{place}.name: {stage.name} is the name of stages.{names.index(stage.name)} too; choose another"
            )
        for setting, named in (("teacher", stage.teacher), ("start", stage.start)):
            if named not in (None, BASE_TEACHER, *names):
                allowed = " or ".join((BASE_TEACHER, *names))
                return [*wrong, f"{place}.{setting}: {named} is not an earlier stage; use {allowed}"]
        # what follows looks through earlier stages: where one of them names none, its own sentence says so
        known: set[str | None] = {None, BASE_TEACHER}
        for other in earlier:
            if {other.teacher, other.start} - known:
                return wrong
            known.add(other.name)
        supervisor, start = self.teacher_of(index), self.start_of(index)
        # every student is sampled at its own nodes, so it must have been trained there
        if untaught := [node for node in nodes_of(stage.student_steps) if node not in self._trained_at(index)]:
            wrong.append(
                f"{place}.starts: {stage.name} will be sampled at {_times(nodes_of(stage.student_steps))}, but is not "
                f"trained at {_times(untaught)}: add {'it' if len(untaught) == 1 else 'them'} to starts"
            )
        # from clips alone nobody's guidance is learned
        if not stage.objective.learns_from_supervisor(stage.student_steps):
            if stage.guidance.guides:
                wrong.append(
                    f"{place}.guidance is {stage.guidance}, but its objective learns from clips alone, so guidance "
                    "would reach nothing: leave it out, or set objective.anchor.weight above 0"
                )
            return wrong
        # a stage that learns from the teacher: guidance that is already distilled must not be unlearned
        if supervisor is None:
            inside = Guidance() if start is None else self.guidance_in(start)
            if inside.guides and not stage.guidance.guides:
                wrong.append(
                    f"{place}.guidance is 1, but its student starts with {inside} baked in and learns from the base "
                    f"teacher, so it would be trained out again; set it to {inside}, or `start: {BASE_TEACHER}`"
                )
            return wrong
        above = self.stages[supervisor]
        # a stage that learns from a student, which knows its own nodes only
        if above.student_steps != stage.teacher_steps:
            wrong.append(
                f"{place}.teacher: {above.name} takes {above.student_steps} steps, not {stage.teacher_steps}; set "
                f"teacher_steps to {above.student_steps}, or name another teacher"
            )
        elif stage.starts is not None:
            times = supervisor_times(stage.teacher_steps, stage.student_steps, stage.starts)
            unknown = [time for time in times if time not in self._trained_at(supervisor)]
            if unknown:
                wrong.append(
                    f"{place}.starts: {above.name}, which supervises, was trained for {above.student_steps} steps, "
                    f"but would be evaluated at {_times(unknown)}, and it was not trained at other nodes: start at "
                    f"{_times(nodes_of(above.student_steps))}, name a teacher that has these nodes, or "
                    f"`teacher: {BASE_TEACHER}`"
                )
        # and whose guidance is distilled: guiding it again would guide twice
        if stage.guidance.guides:
            wrong.append(
                f"{place}.guidance is {stage.guidance}, but its teacher {above.name} is a student with guidance "
                f"baked in; set it to 1, or `teacher: {BASE_TEACHER}`"
            )
        return wrong


def _times(times: Iterable[float]) -> str:
    return ", ".join(f"{time:g}" for time in times)


def read_recipe(path: str | Path, overrides: Sequence[str] = (), needs_files: bool = True) -> Recipe:
    """The recipe of a YAML file, or of a packaged one by its name, such as `shapes-4step`.

    `overrides` are dotted settings such as `stages.1.lr=1e-4` or `stages.4-step.objective.r1=0.5`, with values in
    YAML. Files that it names are looked for next to the recipe, then in the current directory, then among the packaged
    ones, and become absolute; with needs_files=False they may be missing. Raises ValueError naming everything that is
    wrong.
    """
    file = find_recipe(path)
    return _validated(file, overrides, (file.parent, Path.cwd(), RECIPES) if needs_files else ())


def kept_recipe(run: Path) -> Recipe:
    """The recipe in a run directory; what it names, such as a file of prompts, need not be there any more."""
    return _validated(find_recipe(run / "recipe.yaml"), (), ())


def _validated(file: Path, overrides: Sequence[str], folders: tuple[Path, ...]) -> Recipe:
    try:
        values = load_yaml(file.read_text("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from error
    # recipes of other kinds: one sentence that names the command, rather than an error for each of their settings
    if isinstance(values, dict) and "stages" not in values and _OF_A_TEACHER & values.keys():
        raise ValueError(
            f"{file} is the recipe of a teacher, not of a distillation: follow it with `fewstep teacher train`"
        )
    if isinstance(values, dict) and "chain" in values:
        raise ValueError(f"{file} is the recipe of a chain, which `fewstep run` follows: name that of a member here")
    if not isinstance(values, dict):
        raise ValueError(f"{file} holds no settings: begin with `teacher`, `data` and `stages`")
    return _recipe_of(values, str(file), overrides, folders)


def make_recipe(recipe: Recipe | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A recipe that was made in Python, with `overrides` and errors as in `read_recipe`.

    Files that it names are looked for in the current directory, then among the packaged ones, and become absolute.
    """
    if not isinstance(recipe, Recipe | Mapping):
        raise ValueError(
            f"recipe is {recipe!r}: pass a YAML file, a packaged recipe's name, a fewstep.Recipe or a dict"
        )
    values: Any = to_jsonable_python(recipe)
    return _recipe_of(values, "the recipe", overrides, (Path.cwd(), RECIPES))


def _recipe_of(values: dict[str, Any], name: str, overrides: Sequence[str], folders: tuple[Path, ...]) -> Recipe:
    for override in overrides:
        apply(override, values)
    try:
        return Recipe.model_validate(values, context={"folders": folders})
    except ValidationError as error:
        raise ValueError(f"{name}: {'; '.join(error_sentences(error, recipe_schema()))}") from error


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
