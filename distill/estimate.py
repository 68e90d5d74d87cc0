"""What a recipe will cost before it runs: calls of each network, and the memory that weights take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from fewstep.distill.calls import SUPERVISOR, Calls, PartCalls
from fewstep.distill.conversion_plan import planned_conversions
from fewstep.distill.objectives.base import STUDENT
from fewstep.distill.objectives.objective_settings import HeldParameters
from fewstep.distill.optimizers import MOMENT_BYTES
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import Conversion, RolloutData, Stage, conversion_name
from fewstep.student.few_bits import BASE_BYTES
from fewstep.teacher.dataset.caption_files import read_prompts
from fewstep.teacher.limits import GIB
from fewstep.teacher.precision import Precision
from fewstep.teacher.schedule import NoiseSchedule

BYTES = {"float32": 4, "bfloat16": 2}  # of a weight


def rollout_calls(data: RolloutData, num_prompts: int, schedule: NoiseSchedule) -> int:
    """Forwards of single clips by the teacher for all samples of the data, over all processes."""
    return num_prompts * data.count * data.guidance.evaluations(schedule, schedule.grid(data.steps))


def data_calls(recipe: Recipe, schedule: NoiseSchedule) -> int:
    """`rollout_calls` of the recipe's data, of which each base model makes its own; 0 where the teacher makes none.

    Raises ValueError for prompts that cannot be read.
    """
    if not isinstance(recipe.data, RolloutData):
        return 0
    return rollout_calls(recipe.data, len(read_prompts(recipe.data.prompts)), schedule) * (1 + len(recipe.bases))


def stage_calls(stage: Stage, schedule: NoiseSchedule, gradient_checkpointing: bool = False) -> Calls:
    """All calls of a stage on one process, as its objective counts them; samples drawn to look at are not counted."""
    calls = part_calls(stage, schedule, gradient_checkpointing)
    return stage.objective.calls(stage, calls) + stage.objective.calls_once(stage, calls)


def steady_calls(stage: Stage, schedule: NoiseSchedule, gradient_checkpointing: bool = False) -> Calls:
    """Those of its steps, without what happens once."""
    return stage.objective.calls(stage, part_calls(stage, schedule, gradient_checkpointing))


def part_calls(stage: Stage, schedule: NoiseSchedule, gradient_checkpointing: bool = False) -> PartCalls:
    """What a step of the stage may be made of."""
    clips, forwards = stage.batch, 2 if gradient_checkpointing else 1
    # from noise to data, so of all student steps
    whole = clips * stage.guidance.evaluations(schedule, schedule.grid(stage.teacher_steps))
    return PartCalls(
        lesson=Calls.of(SUPERVISOR, round(whole / stage.student_steps)),
        clips=Calls.of(SUPERVISOR, whole),
        forward=Calls.of(STUDENT, clips),
        learn=Calls.of(STUDENT, forwards * clips, clips),
    )


@dataclass(frozen=True)
class StageWork:
    """How much of the time of a run a stage takes, in forwards of one clip."""

    name: str
    each: float  # of a step, without what is done once, such as a warm-up within the first
    whole: float


def conversion_calls(stage: Stage, conversion: Conversion, gradient_checkpointing: bool = False) -> Calls:
    """All calls of the conversion that precedes a stage; its frozen original counts as a supervisor."""
    forwards = 2 if gradient_checkpointing else 1
    once = Calls.of(SUPERVISOR, stage.batch) + Calls.of(STUDENT, forwards * stage.batch, stage.batch)
    return once * conversion.steps


def relay_work(recipe: Recipe, schedule: NoiseSchedule, finished: Callable[[str], bool]) -> list[StageWork]:
    """The work of every stage, and of its conversion, that is not finished, in order, on one process."""
    work, checkpointing = [], bool(recipe.gradient_checkpointing)
    for stage, conversion in zip(recipe.stages, planned_conversions(recipe, schedule.prediction), strict=True):
        if finished(stage.name):
            continue
        if conversion is not None:
            whole = conversion_calls(stage, conversion, checkpointing).work
            work.append(StageWork(conversion_name(stage.name), whole / conversion.steps, whole))
        work.append(stage_work(stage, schedule, checkpointing))
    return work


def stage_work(stage: Stage, schedule: NoiseSchedule, gradient_checkpointing: bool = False) -> StageWork:
    """The work of a stage on one process."""
    per_step = steady_calls(stage, schedule, gradient_checkpointing).work / stage.steps
    return StageWork(stage.name, per_step, stage_calls(stage, schedule, gradient_checkpointing).work)


def total_calls(recipe: Recipe, schedule: NoiseSchedule) -> Calls:
    """All stages and their conversions together, on one process."""
    checkpointing = bool(recipe.gradient_checkpointing)
    stages = (stage_calls(stage, schedule, checkpointing) for stage in recipe.stages)
    planned = zip(recipe.stages, planned_conversions(recipe, schedule.prediction), strict=True)
    conversions = (
        conversion_calls(stage, conversion, checkpointing) for stage, conversion in planned if conversion is not None
    )
    return sum((*stages, *conversions), Calls())


@dataclass(frozen=True)
class RoleMemory:
    """GiB that one role takes on each process."""

    role: str
    weights: float
    gradients: float = 0.0
    moments: float = 0.0  # Adam's two
    average: float = 0.0

    @property
    def total(self) -> float:
        """GiB."""
        return self.weights + self.gradients + self.moments + self.average


def stage_memory(
    recipe: Recipe,
    index: int,
    num_parameters: int,
    num_adapters: int = 0,
    held: Mapping[str, HeldParameters] | None = None,
    frozen: Precision = "float32",
    num_experts: int = 1,
    num_trained: int | None = None,
    is_part: bool = False,
    num_few_bits: int = 0,
) -> list[RoleMemory]:
    """Memory of each role's weights in stage `index`, with gradients, Adam's moments and the EMA.

    The numbers are of parameters: the denoiser's (of experts both, which are there at once), its adapters' that the
    stage trains, and those that the stage's objective holds besides; `num_trained` are those of the experts that the
    stage trains, None: the whole denoiser's. `is_part`: they are those of a part, around which all else is the
    teacher's own. `frozen` is the dtype of the teacher's weights and of a supervisor's; all others are float32.
    Activations, which grow with clips and batch, are not counted, nor are text encoder and autoencoder.
    """
    lora = recipe.train_of(index) == "lora"
    start = recipe.start_of(index)
    own_base = start is not None and not recipe.keeps_adapters(start)  # adapters on weights that are not the teacher's
    learning = num_parameters if num_trained is None else num_trained
    teacher = _frozen("teacher" if num_experts == 1 else f"teacher, {num_experts} experts", num_parameters, frozen)
    # the teacher, whose block layers the recipe may have rounded to few bits
    few = BYTES[frozen] if recipe.student.base is None else BASE_BYTES[recipe.student.base]
    shares = [replace(teacher, weights=teacher.weights - num_few_bits * (BYTES[frozen] - few) / GIB)]
    averaged, moments = recipe.average_of(index) == "device", MOMENT_BYTES[recipe.optimizer]
    # the student: adapters, perhaps on weights of an earlier stage, or the whole trained network
    if lora and own_base:
        shares.append(_frozen("student's base", learning))
    shares.append(_trained("student", num_adapters if lora else learning, averaged, moments))
    if own_base and learning < num_parameters and not is_part:
        shares.append(_frozen("student's other expert", num_parameters - learning, frozen))

    # the supervisor, where it is neither the teacher nor the student's own base
    supervisor = recipe.teacher_of(index)
    if supervisor is not None:
        if recipe.keeps_adapters(supervisor):
            shares.append(_frozen("supervisor", num_adapters))
        elif not (lora and supervisor == start):  # else it is the student's base
            shares.append(_frozen("supervisor", learning if is_part else num_parameters, frozen))

    # what the objective trains besides, such as a discriminator: it has moments, and no EMA
    for name, own in (held or {}).items():
        trained, still = _trained(name, own.trained, False, moments), _frozen(name, own.frozen)
        shares.append(replace(trained, weights=trained.weights + still.weights))
    return shares


def _frozen(role: str, num_parameters: int, precision: Precision = "float32") -> RoleMemory:
    return RoleMemory(role, num_parameters * BYTES[precision] / GIB)


def _trained(role: str, num_parameters: int, averaged: bool, moment_bytes: float) -> RoleMemory:
    moments = 2 * num_parameters * moment_bytes / GIB
    once = num_parameters * BYTES["float32"] / GIB  # whatever the forward passes compute in
    return RoleMemory(role, once, gradients=once, moments=moments, average=once if averaged else 0.0)
