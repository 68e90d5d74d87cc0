"""What a recipe will cost before it runs: calls of each network, and the memory that weights take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass

from fewstep.distill.conversion_plan import planned_conversions
from fewstep.distill.fresh_heads import HELD_OUT
from fewstep.distill.objectives.adversarial import Adversarial
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import Conversion, RolloutData, Stage, conversion_name
from fewstep.teacher.precision import Precision
from fewstep.teacher.schedule import NoiseSchedule

GIB = 2**30
_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Calls:
    """How often one clip goes through a network, on one process.

    A guided forward counts twice. `supervisor` are forwards only; those of the student include forwards that are
    computed again for gradient checkpointing; the discriminator's are of its backbone, whose backward passes reach
    the endpoint (the student learns) or the backbone itself (if it is trained).
    """

    supervisor: int = 0
    student_forward: int = 0
    student_backward: int = 0
    discriminator_forward: int = 0
    discriminator_backward: int = 0

    def __add__(self, other: Calls) -> Calls:
        return Calls(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: int) -> Calls:
        return Calls(*(times * count for count in astuple(self)))

    @property
    def work(self) -> int:
        """In forwards of one clip: a backward pass counts as two."""
        backward = self.student_backward + self.discriminator_backward
        return self.supervisor + self.student_forward + self.discriminator_forward + 2 * backward


def rollout_calls(data: RolloutData, num_prompts: int, schedule: NoiseSchedule) -> int:
    """Forwards of single clips by the teacher for all samples of the data, over all processes."""
    return num_prompts * data.count * data.guidance.evaluations(schedule, schedule.grid(data.steps))


def stage_calls(stage: Stage, schedule: NoiseSchedule, gradient_checkpointing: bool = False) -> Calls:
    """All calls of a stage on one process; with guidance at some noise levels only, those of an average draw of steps.

    Starts between two nodes take fewer substeps than counted here; samples drawn to look at are not counted. Where the
    discriminator's steps follow its accuracy, the usual number is counted.
    """
    # from noise to data, so of all student steps
    whole = stage.batch * stage.guidance.evaluations(schedule, schedule.grid(stage.teacher_steps))
    lesson = Calls(supervisor=round(whole / stage.student_steps))
    forwards = 2 if gradient_checkpointing else 1
    learn = Calls(student_forward=forwards * stage.batch, student_backward=stage.batch)
    if not isinstance(stage.objective, Adversarial):
        return (lesson + learn) * stage.steps
    return _adversarial_calls(stage, stage.objective, lesson, Calls(supervisor=whole), learn)


def _adversarial_calls(stage: Stage, objective: Adversarial, lesson: Calls, clips: Calls, learn: Calls) -> Calls:
    """The discriminator's turns and the student's; `lesson` is a step of the supervisor's, `clips` its whole way."""
    samples, anchored = objective.judges == "sample", objective.anchor.weight > 0
    # what is real, and the student's side of it: forward alone, then with gradients
    if samples:
        real = clips if objective.real == "supervisor" else Calls()
        forward = Calls(student_forward=stage.batch * stage.student_steps)
        through = {"all": stage.student_steps, "last": 1, "drawn": (stage.student_steps + 1) / 2}[objective.through]
        learnt = Calls(
            student_forward=forward.student_forward + round(through * (learn.student_forward - stage.batch)),
            student_backward=round(through * stage.batch),
        )
    else:
        real = Calls() if objective.real == "clips" else lesson
        forward, learnt = Calls(student_forward=stage.batch), learn

    turn = _judged_calls(stage, objective)
    step = turn.starts_once + (turn.judge * objective.discriminator_steps) + turn.learn + learnt
    step += lesson if anchored and not samples else real
    if anchored and samples:
        step += lesson + learn
    if stage.accumulate > 1:  # its graph does not wait for the student's turn, see Trainer
        step += forward * objective.discriminator_steps
    warmup = real + forward + turn.starts_once + turn.judge
    counting = -(-stage.steps // objective.penalty_every)  # every n-th step from step 0 on, as all of the warm-up
    penalties = turn.penalty * (objective.warmup + counting * objective.discriminator_steps)
    fresh = 2 * (objective.probe + HELD_OUT) if objective.probe else 0  # before and after
    probe = (warmup * fresh) + turn.penalty * (2 * -(-objective.probe // objective.penalty_every))
    return step * stage.steps + warmup * objective.warmup + penalties + probe


@dataclass(frozen=True)
class _JudgedCalls:
    """Calls of the discriminator's backbone."""

    starts_once: Calls  # in a round, for z_t
    judge: Calls  # in a turn of its own
    penalty: Calls  # more of them where r1 or r2 count
    learn: Calls  # in the student's turn


def _judged_calls(stage: Stage, objective: Adversarial) -> _JudgedCalls:
    batch, trained = stage.batch, objective.discriminator.backbone != "frozen"
    starts = batch if objective.conditional else 0
    again = starts if trained else 0  # what is trained must be read anew in every turn

    def read(count: int, backward: bool) -> Calls:
        return Calls(discriminator_forward=count, discriminator_backward=count if backward else 0)

    both = read(2 * batch + again + (batch if objective.mismatched else 0), trained)
    penalty = read(2 * batch, trained) if objective.r1 or objective.r2 else Calls()
    compared = objective.loss == "relativistic" or objective.balance is not None  # the real side is read as well
    learn = read(again + (batch if compared else 0), backward=False) + read(batch, backward=True)
    return _JudgedCalls(read(starts - again, backward=False), both, penalty, learn)


@dataclass(frozen=True)
class StageWork:
    """How much of the time of a run a stage takes, in forwards of one clip."""

    name: str
    each: float  # of a step, without a discriminator's warm-up, which lies in the first
    whole: float


def conversion_calls(stage: Stage, conversion: Conversion, gradient_checkpointing: bool = False) -> Calls:
    """All calls of the conversion that precedes a stage; its frozen original counts as a supervisor."""
    forwards = 2 if gradient_checkpointing else 1
    return Calls(stage.batch, forwards * stage.batch, stage.batch) * conversion.steps


def relay_work(recipe: Recipe, schedule: NoiseSchedule, finished: Callable[[str], bool]) -> list[StageWork]:
    """The work of every stage, and of its conversion, that is not finished, in order, on one process."""
    found, checkpointing = [], recipe.gradient_checkpointing
    for stage, conversion in zip(recipe.stages, planned_conversions(recipe, schedule.prediction), strict=True):
        if finished(stage.name):
            continue
        if conversion is not None:
            whole = conversion_calls(stage, conversion, checkpointing).work
            found.append(StageWork(conversion_name(stage.name), whole / conversion.steps, whole))
        found.append(stage_work(stage, schedule, checkpointing))
    return found


def stage_work(stage: Stage, schedule: NoiseSchedule, gradient_checkpointing: bool = False) -> StageWork:
    """The work of a stage on one process."""
    plain, objective = stage, stage.objective
    if isinstance(objective, Adversarial):
        plain = stage.model_copy(update={"objective": objective.model_copy(update={"warmup": 0, "probe": 0})})
    each = stage_calls(plain, schedule, gradient_checkpointing).work / stage.steps
    return StageWork(stage.name, each, stage_calls(stage, schedule, gradient_checkpointing).work)


def total_calls(recipe: Recipe, schedule: NoiseSchedule) -> Calls:
    """All stages and their conversions together, on one process."""
    checkpointing = recipe.gradient_checkpointing
    stages = (stage_calls(stage, schedule, checkpointing) for stage in recipe.stages)
    planned = zip(recipe.stages, planned_conversions(recipe, schedule.prediction), strict=True)
    conversions = (conversion_calls(stage, found, checkpointing) for stage, found in planned if found is not None)
    return sum((*stages, *conversions), Calls())


@dataclass(frozen=True)
class Share:
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
    num_heads: int = 0,
    num_discriminator_adapters: int = 0,
    frozen: Precision = "float32",
    num_experts: int = 1,
    num_trained: int | None = None,
) -> list[Share]:
    """Memory of each role's weights in stage `index`, with gradients, Adam's moments and the moving average.

    The numbers are of parameters: the denoiser's (of experts both, which are there at once), its adapters' that the
    stage trains, the discriminator's heads' and adapters'; `num_trained` are those of the experts that the stage
    trains, None: the whole denoiser's. `frozen` is the dtype of the teacher's weights and of a supervisor's; what is
    trained is float32. Activations, which grow with clips and batch, are not counted, nor are text encoder and
    autoencoder.
    """
    lora = recipe.train_of(index) == "lora"
    start = recipe.start_of(index)
    own_base = start is not None and not recipe.keeps_adapters(start)  # adapters on weights that are not the teacher's
    learning = num_parameters if num_trained is None else num_trained
    shares = [_frozen("teacher" if num_experts == 1 else f"teacher, {num_experts} experts", num_parameters, frozen)]
    if lora and own_base:
        shares.append(_frozen("student's base", learning))
    shares.append(_trained("student", num_adapters if lora else learning, averaged=True))
    if own_base and learning < num_parameters:
        shares.append(_frozen("student's other expert", num_parameters - learning, frozen))

    supervisor = recipe.teacher_of(index)
    if supervisor is not None:
        if recipe.keeps_adapters(supervisor):
            shares.append(_frozen("supervisor", num_adapters))
        elif not (lora and supervisor == start):  # else it is the student's base
            shares.append(_frozen("supervisor", num_parameters, frozen))

    objective = recipe.stages[index].objective
    if isinstance(objective, Adversarial):
        own = {"frozen": 0, "lora": num_discriminator_adapters, "trained": num_parameters}
        shares.append(_trained("discriminator", num_heads + own[objective.discriminator.backbone], averaged=False))
    return shares


def _frozen(role: str, num_parameters: int, precision: Precision = "float32") -> Share:
    return Share(role, num_parameters * _BYTES[precision] / GIB)


def _trained(role: str, num_parameters: int, averaged: bool) -> Share:
    once = num_parameters * _BYTES["float32"] / GIB  # whatever the forward passes compute in
    return Share(role, once, gradients=once, moments=2 * once, average=once if averaged else 0.0)
