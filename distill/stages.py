"""The relay: stage after stage, each student starts the next and may teach it; gates stop what does not work."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import nn

from fewstep.distill.batches import BasesBatches, Batches, BatchSource
from fewstep.distill.conversion import CONVERSIONS, announcement, conversion_trainer
from fewstep.distill.conversion_plan import conversion_of
from fewstep.distill.data import TrainingClips
from fewstep.distill.expert_plan import expert_plan, trained_experts
from fewstep.distill.health import Watcher
from fewstep.distill.objectives.base import Batch, StillRoles
from fewstep.distill.objectives.supervision import Supervision
from fewstep.distill.parallel import Layout, gathered, placed_like
from fewstep.distill.processes import agree, check_same
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import RunFolder
from fewstep.distill.settings import Conversion, Gate, Stage
from fewstep.distill.tracker import NoTracker, Tracker
from fewstep.distill.trainer import Trainer
from fewstep.distill.watch import WATCHED_CLIPS, MotionAndDiversity, endpoint_error
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles, student_network
from fewstep.student.few_bits import BASE_BITS, quantise_base
from fewstep.student.weights import weights_sha256
from fewstep.teacher.base import Teacher
from fewstep.teacher.interrupts import RESUME, Signals, Stop
from fewstep.teacher.predictions import record_prediction
from fewstep.teacher.ranks import among_processes, current_ranks
from fewstep.teacher.screen import TrainingScreen

_T = TypeVar("_T")
# clips that endpoint_error is measured on, at most; else twice a step's, so that it takes about as long as a step
_HELD_OUT_CLIPS = 32
# batches that training never reaches: clips of the data, with noise and times that no step draws
_HELD_OUT_POSITION = 10**9

# What is measured of a student at a gate, besides endpoint_error: its network and contract -> a figure
GateMetric = Callable[[nn.Module, SamplingContract], float]
WriteSamples = Callable[[Path | None, nn.Module, SamplingContract], None]  # None: a process that only takes part


@dataclass(frozen=True)
class _Prepared:
    """A stage that is ready to run."""

    trainer: Trainer
    watch: Callable[[int], dict[str, float]]  # what is measured after this many steps
    probe: Callable[[], dict[str, float]] | None  # what the objective measures at the end, if it is asked
    conversion: Conversion | None  # what the student must be converted to before the first step


@dataclass(frozen=True)
class Relay:
    """Everything the stages of one run share. `gate_metrics` are metrics that gates may name besides endpoint_error."""

    recipe: Recipe
    folder: RunFolder
    teacher: Teacher
    clips: TrainingClips
    accelerator: Accelerator
    screen: TrainingScreen
    signals: Signals
    gate_metrics: Mapping[str, GateMetric] = field(default_factory=dict)
    samples: WriteSamples | None = None
    tracker: Tracker = field(default_factory=NoTracker)
    chosen: Collection[str] | None = None  # names of the stages to train; None: all

    @cached_property
    def layout(self) -> Layout:
        """How networks are held."""
        return Layout(self.recipe.parallel, self.accelerator)

    def run(self) -> None:
        """Every stage that is chosen and not finished yet, in order.

        Raises ValueError when a gate does not open or a loss is not finite; Stop, with what is on disk, when a signal
        asked to stop.
        """
        for index, stage in enumerate(self.recipe.stages):
            if self.folder.finished(stage.name):
                self.screen.say(f"{stage.name} is finished")
            elif self.chosen is not None and stage.name not in self.chosen:
                self.screen.say(f"{stage.name} is left out")
                continue
            else:
                self._run_stage(index, stage)
            check_gate(stage, self.folder)

    def _run_stage(self, index: int, stage: Stage) -> None:
        self.screen.say(f"{stage.name}: loading its networks")
        on_gpu = self.accelerator.device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(self.accelerator.device)
        # networks, batches and the objective; then the training, resumed from where a checkpoint stands
        prepared = self._unless_stopped(lambda: self._prepare(index, stage), f"stage {stage.name} is next")
        trainer = prepared.trainer
        self._check_agreed(index, trainer)
        # eps turns into v or x0 before the stage's first step (arXiv 2402.13929); a stage that has begun has done so
        if prepared.conversion is not None and not trainer.has_begun:
            trainer.seconds += self._convert(index, stage, prepared.conversion, trainer)
        if stage.objective.first_step and not trainer.has_begun:
            self.screen.say(f"{stage.name}: its first step {stage.objective.first_step}")
        self._train(trainer)
        self.screen.say(f"{stage.name}: measuring the student")
        # the EMA is what the stage leaves behind, so it is what is measured, gated and saved
        roles = trainer.roles
        with roles.averaged():
            result: dict[str, Any] = self._unless_stopped(
                lambda: prepared.watch(stage.steps) | self._gate_metric(stage.gate, roles.student, trainer.contract),
                trainer.kept,
            )
        if prepared.probe is not None:
            result |= self._unless_stopped(prepared.probe, trainer.kept)
        result |= {"steps": stage.steps, "train_seconds": round(trainer.seconds, 1)}
        if self.recipe.student.base is not None:
            result["base_bits"] = BASE_BITS[self.recipe.student.base]  # under the adapters while they were trained
        if on_gpu:  # of the main process; --dry-run says how much of it are weights
            result["peak_gib"] = round(torch.cuda.max_memory_allocated(self.accelerator.device) / 2**30, 2)

        names = [expert.name for expert in trainer.contract.experts] or None

        def write(folder: Path) -> None:
            roles.save(folder, names)
            trainer.contract.write(folder)

        # the stage's folder appears whole; from then on it is finished, and its checkpoint goes
        if self.accelerator.is_main_process:
            self.folder.finish(stage.name, write, result)
        elif self.layout.shards:
            with among_processes():
                roles.save(None, names)
        current_ranks().wait()
        figures = ", ".join(f"{key} {value:.4g}" for key, value in result.items())
        self.screen.say(f"{stage.name}: {figures}")

    def _check_agreed(self, index: int, trainer: Trainer) -> None:
        """Raises ValueError in every process when they would continue from different weights or steps."""
        if self.accelerator.num_processes == 1:  # hashing large weights takes minutes
            return
        # what training continues from: the teacher, the students it starts from and learns from, and the checkpoint
        folders = [self._weights(self.recipe.start_of(index)), self._weights(self.recipe.teacher_of(index))]
        hashes = [self.teacher.sha256(), *(weights_sha256(folder) for folder in folders if folder is not None)]
        check_same(
            self.accelerator,
            {
                "stage": trainer.stage.name,
                "step": str(trainer.step),
                "rounds of the first step's warm-up": str(trainer.rounds),
                "the weights it begins with": " ".join(digest[:12] for digest in hashes),
                "what was trained so far": trainer.trained.fingerprint,
            },
            f"put {self.folder.path} on a disk that all of them share, and run the same command again",
        )

    def _train(self, trainer: Trainer) -> None:
        """Raises Stop, saying what is kept, when a signal asked to stop."""
        with self.screen.stage(trainer.stage.name, trainer.stage.steps, trainer.step) as on_step:
            stop = trainer.run(on_step, self.signals, self.screen.say)
        if stop:
            raise Stop(stop, _resume(trainer.kept))

    def _convert(self, index: int, stage: Stage, conversion: Conversion, trainer: Trainer) -> float:
        """Trains the student of a stage that has not begun to predict what it is recorded to predict: the seconds."""

        def prepare() -> Trainer:
            roles, batches = trainer.roles, self._batches(index + CONVERSIONS)
            return conversion_trainer(
                stage, conversion, roles, self._start(index, roles), batches, trainer.contract, self.accelerator,
                self.recipe.logging, self.folder.path, self.recipe.optimizer, self.layout.num_groups,
            )  # fmt: skip

        converting = self._unless_stopped(prepare, f"stage {stage.name} is next")
        # a finished conversion is loaded, too: until the stage's first save its checkpoint alone has the new weights
        if converting.step < converting.stage.steps:
            self.screen.say(announcement(stage, conversion))
        self._train(converting)
        return converting.seconds

    def _unless_stopped(self, work: Callable[[], _T], kept: str) -> _T:
        """work(). Raises Stop, saying what is `kept`, when a signal asked any of the processes to stop meanwhile."""
        # several processes measure together, so none may leave the others waiting
        done = self.signals.attempt(work) if self.accelerator.num_processes == 1 else work()
        request = agree(self.accelerator, self.signals)
        if request.stop:
            raise Stop(request.stop, _resume(kept))
        if request.save:
            self.screen.say(f"{kept}; training continues")
        assert done is not None
        return done

    def _prepare(self, index: int, stage: Stage) -> _Prepared:
        """The stage's trainer, resumed from its checkpoint, and what belongs to it."""
        torch.manual_seed(self.recipe.seed + index)  # of adapters and heads, the same in every process
        # the student begins as an earlier stage ended; its supervisor is the base teacher or an earlier student
        start, teacher = self._weights(self.recipe.start_of(index)), self._weights(self.recipe.teacher_of(index))
        self.layout.prepare(self.teacher)
        roles, baked = stage_roles(self.recipe, index, self.teacher, start, teacher), self.recipe.guidance_in(index)
        conversion = conversion_of(stage, self.teacher.schedule_of(roles.student).prediction)
        if conversion is not None:
            record_prediction(roles.student, conversion.to)
        # after the student's prediction is resolved: copies keep the record of it, shards are made of what is there
        roles.place(self.layout.placing(self.teacher), gathered)
        supervision = stage_supervision(stage, self.teacher)
        compared = replace(supervision, guidance=self.recipe.compared_guidance(index))
        batches = self._batches(index)
        # those of all processes: an objective may take statistics from them, which must be the same in all
        any_batch = next(held_out_batches(self._batches(index, alone=True), stage))
        objective = stage.objective.build(supervision, roles, any_batch)
        # how the student will be sampled: checkpoints and the finished stage carry it
        contract = SamplingContract.of(
            self.teacher, self.recipe.teacher, stage.student_steps, roles.weights, self.clips.sizes, baked,
            self.clips.negative_prompt, self.clips.fps, self.teacher.schedule_of(roles.student).prediction, roles.own,
        )  # fmt: skip

        def watch(step: int) -> dict[str, float]:
            is_main = self.accelerator.is_main_process
            # networks that several processes share are asked by all of them, though one alone writes the clips
            if self.samples is not None and (is_main or self.layout.together):
                clips = self.folder.samples / stage.name / f"step-{step:06d}"
                self.samples(clips if is_main else None, roles.student, contract)
                if is_main:
                    self.tracker.clips(stage.name, step, clips)
            current_ranks().wait()  # a collective call would not have the others wait for that long
            held_out = held_out_batches(batches, stage, self.layout.num_groups)
            return {"endpoint_error": endpoint_error(roles, held_out, compared)}

        # a collapse hardly shows in losses: the student's clips are compared with its supervisor's from the same noise
        motion_and_diversity = MotionAndDiversity(
            roles, self._watched_batch(batches), compared, stage.share(self.layout.num_groups),
            trained_experts(self.recipe, index, self.teacher),
        )  # fmt: skip
        trainer = Trainer(
            stage, roles, objective, batches, contract, self.accelerator, self.recipe.logging, self.folder.path, watch,
            self.tracker, Watcher(self.recipe.watch, stage.steps, motion_and_diversity.measure), self.recipe.optimizer,
            self.layout.num_groups,
        )  # fmt: skip
        probe = self._probe(index, stage, roles, batches, any_batch)
        return _Prepared(trainer, lambda step: watch(step) | motion_and_diversity.measure(), probe, conversion)

    def _probe(
        self, index: int, stage: Stage, roles: Roles, batches: BatchSource, any_batch: Batch
    ) -> Callable[[], dict[str, float]] | None:
        """What the objective measures of what the student began as, and of its EMA."""
        # at every step that the student takes, whichever the stage trains: with shared weights it changes all of them
        supervision = stage_supervision(stage.model_copy(update={"starts": None}), self.teacher)
        share, micro_batches = stage.share(self.layout.num_groups), stage.micro_batches(self.layout.num_groups)
        probe = stage.objective.probing(supervision, batches, share, micro_batches, any_batch, self.accelerator)
        if probe is None:
            return None

        def measure() -> dict[str, float]:
            self.screen.say(f"{stage.name}: {probe.doing}")
            # such a figure says little by itself, so what the stage began as is measured in the same way
            finished = StillRoles(self.teacher, roles.student, roles.supervisor, roles.backbone)
            began_as = replace(finished, student=self._start(index, roles))
            with roles.averaged():
                return probe.measure(finished, began_as)

        return measure

    def _batches(self, stage: int, alone: bool = False) -> BatchSource:
        """The share of them of this process and of those that take the same clips, or those of all together."""
        rank, count = (0, 1) if alone else (self.layout.group, self.layout.num_groups)
        teacher, seed = self.teacher, self.recipe.seed
        own = Batches(self.clips.folder, teacher, seed, stage, rank, count)
        # further base models have clips of their own (arXiv 2403.12706), in the same order of sizes
        others = [
            Batches(folder, teacher, seed, stage, rank, count, sha256, own) for folder, sha256 in self.clips.of_bases
        ]
        return BasesBatches([own, *others], seed, stage, rank) if others else own

    def _watched_batch(self, batches: BatchSource) -> Batch:
        """This process's share of the clips that the watch compares, of the data's first size."""
        return batches.of_each_size(_HELD_OUT_POSITION, max(2, WATCHED_CLIPS // self.layout.num_groups))[0]

    def _start(self, index: int, roles: Roles) -> nn.Module:
        """What stage `index` starts as, frozen: its supervisor itself, where that is the same student."""
        start = self.recipe.start_of(index)
        if start == self.recipe.teacher_of(index):
            return roles.supervisor
        folder = self._weights(start)
        return roles.backbone if folder is None else placed_like(student_network(self.teacher, folder), roles.backbone)

    def _weights(self, index: int | None) -> Path | None:
        return None if index is None else self.folder.stage(self.recipe.stages[index].name)

    def _gate_metric(self, gate: Gate | None, student: nn.Module, contract: SamplingContract) -> dict[str, float]:
        if gate is None or gate.metric == "endpoint_error":
            return {}
        if gate.metric not in self.gate_metrics:
            raise ValueError(f"{gate.metric} cannot be measured with this teacher: gate on endpoint_error")
        return {gate.metric: self.gate_metrics[gate.metric](student, contract)}


def held_out_batches(batches: BatchSource, stage: Stage, num_processes: int = 1) -> Iterator[Batch]:
    """A process's share of the clips that a stage is measured on, of each size: of the data, with noise that training
    never draws. As many at a time as memory for training allows, which needs more for each."""
    clips = max(1, min(_HELD_OUT_CLIPS, 2 * stage.batch) // num_processes)
    at_once = max(1, min(_HELD_OUT_CLIPS, 2 * stage.batch // stage.accumulate) // num_processes)
    for position in range(_HELD_OUT_POSITION, _HELD_OUT_POSITION + clips // at_once):
        yield from batches.of_each_size(position, at_once)


def stage_roles(recipe: Recipe, index: int, teacher: Teacher, start: Path | None, supervisor: Path | None) -> Roles:
    """The networks of stage `index`. start, supervisor: folders of finished stages; None is the teacher itself.

    Where the recipe says so, the teacher's own weights have few bits from now on.
    """
    stage, lora = recipe.stages[index], recipe.student.lora
    if recipe.student.base is not None:
        quantise_base(teacher, recipe.student.base)
    experts, average = expert_plan(stage, teacher).trained, recipe.average_of(index)
    train = recipe.train_of(index)
    roles = Roles(teacher, train, start, supervisor, lora.rank, lora.alpha, lora.targets, experts, average)
    if recipe.gradient_checkpointing:
        roles.checkpoint_gradients(recipe.gradient_checkpointing)
    return roles


def stage_supervision(stage: Stage, teacher: Teacher) -> Supervision:
    """Where the stage's steps start and end, and who takes them before."""
    starts = expert_plan(stage, teacher).starts
    return Supervision(stage.teacher_steps, stage.student_steps, stage.guidance, starts)


def check_gate(stage: Stage, folder: RunFolder) -> None:
    """Raises ValueError when the finished stage falls short of its gate, or its metric was not measured."""
    gate = stage.gate
    if gate is None:
        return
    measured = folder.result(stage.name)
    # a gate may be changed after its stage was finished, so its metric may be missing
    if gate.metric not in measured:
        raise ValueError(
            f"stage {stage.name} was finished without a gate on {gate.metric}, so it was not measured: gate on "
            f"endpoint_error, or delete {folder.stage(stage.name)} to train the stage again"
        )
    value = measured[gate.metric]
    if not gate.opens(value):
        raise ValueError(
            f"stage {stage.name} ended with {gate.metric} {value:.4g}, and its gate requires {gate.limit}: set another "
            f"gate, or train it again for longer: set steps, and run with --again {stage.name}"
        )


def _resume(kept: str) -> str:
    return f"{kept}; {RESUME}"
