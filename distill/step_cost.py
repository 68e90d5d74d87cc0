"""What a step of each stage will take on a device, before anything is loaded: memory at its highest, and FLOPs."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import diffusers
import torch
import transformers
from accelerate import Accelerator, init_empty_weights
from torch import Tensor, nn

from fewstep.distill.meta_step import META, AsOnDevice, MetaMemory
from fewstep.distill.paper_layout import PaperLayout
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import RolloutData, VideoData
from fewstep.distill.trainer import Trainer
from fewstep.distill.untrained import untrained_trainer
from fewstep.student.few_bits import base_of
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.dataset.sources import named_tensors
from fewstep.teacher.experts import every_network
from fewstep.teacher.limits import GIB
from fewstep.teacher.pipelines.parts import named_parts
from fewstep.teacher.precision import Precision, stays_exact
from fewstep.teacher.ranks import unlaunched
from fewstep.teacher.shapes.text import make_tokenizer

_T = TypeVar("_T")
_WORD = "ball"  # a token of its own in every vocabulary, or more
_ALIKE = {"name": "", "start": None, "teacher": None, "steps": 1, "lr": 1.0, "warmup": 0, "cooldown": 0.0, "ema": 0.0}


@dataclass(frozen=True)
class StepCost:
    """One process's step of a stage.

    GiB: `held` between steps (weights, moments, averages), and `peak` within one, which adds activations, gradients and
    whatever else comes and goes, in the steps with a discriminator's penalties as well. `flops`: of all networks
    together, guided and recomputed calls included, the mean of steps with penalties and without. `shards`: whether
    networks are sharded over several processes.
    """

    stage: str
    held: float
    peak: float
    flops: float
    shards: bool = False


class StepCounter:
    """Counts steps of one teacher's stages on the device meta, as one of `num_processes` makes them.

    teacher: an outline's, which is used up: its networks are cast, and its encoders dropped as training drops them.
    num_tokens: of the prompts; None: as many as it reads. Raises ValueError where the teacher's text encoder cannot be
    followed without numbers.
    """

    def __init__(
        self,
        teacher: Teacher,
        size: VideoSize,
        precision: Precision,
        num_tokens: int | None = None,
        num_processes: int = 1,
    ) -> None:
        self.num_processes = num_processes
        self._teacher, self._size, self._precision = teacher, size, precision
        _cast(teacher, getattr(torch, precision))
        try:
            self._conditions, self._peak_of_conditions = _conditions(teacher, size, num_tokens)
        except Exception as error:  # code that lacks numbers may fail in any way
            raise self._uncountable(error) from error
        # parameters of the whole pipeline, by its parts: training frees some of them
        parts = {name: part for name, part in teacher.pipeline.components.items() if isinstance(part, nn.Module)}
        self.parts = {name: sum(x.numel() for x in part.parameters()) for name, part in parts.items()}

    @property
    def text_numbers(self) -> int:
        """Of what a clip is conditioned on, its text and what else it is given, as a dataset stores it."""
        conditions = self._conditions
        return sum(tensor[0].numel() for tensor in named_tensors(conditions.positive, conditions.shared).values())

    def clips_peak(self, data: RolloutData | VideoData) -> float:
        """GiB at most, besides weights, while a batch of the run's clips is made: sampled with guidance or encoded, and
        their texts.

        Raises ValueError as `costs` does, and after it: training drops the autoencoder.
        """
        if isinstance(data, RolloutData):
            guidance = 2.0 if data.guidance.guides else 1.0
            peak = self._peak_of(lambda: self._sampled(data.batch, guidance))
        else:
            video = torch.empty(data.batch, 3, *self._size, device=META)
            peak = self._peak_of(lambda: self._teacher.encode(video))
        return max(peak, data.batch * self._peak_of_conditions) / GIB

    def sample_peak(self) -> float:
        """GiB at most, besides weights, while a sample clip is made and decoded. Raises ValueError as `clips_peak`
        does."""
        z = torch.empty(1, *self._teacher.latent_shape(*self._size), device=META)
        decoding = self._peak_of(lambda: self._teacher.decode(z))
        return max(decoding, self._peak_of(lambda: self._sampled(1, 1.0))) / GIB

    def costs(self, recipe: Recipe) -> Iterator[StepCost]:
        """Of every stage; those that differ in nothing that costs are counted once.

        Raises ValueError where the networks cannot be followed without numbers.
        """
        counted = dict[str, StepCost]()
        for index, stage in enumerate(recipe.stages):
            # a step's cost follows from settings other than names, rates and lengths, and from whose weights it uses
            others = recipe.teacher_of(index), recipe.start_of(index)
            whose = [
                None if other is None else (recipe.train_of(other), recipe.keeps_adapters(other)) for other in others
            ]
            place = recipe.train_of(index), whose, others[0] == others[1]
            alike = repr((stage.model_copy(update=_ALIKE), place, stage.ema == 0))
            if alike not in counted:
                counted[alike] = self.cost(recipe, index)
            yield replace(counted[alike], stage=stage.name)

    def cost(self, recipe: Recipe, index: int) -> StepCost:
        """Of a stage. Raises ValueError as `costs` does."""
        cost = self.cost_within(recipe, index, math.inf)
        assert cost is not None
        return cost

    def cost_within(self, recipe: Recipe, index: int, device_gib: float) -> StepCost | None:
        """Of a stage, or None where a step needs more than so many GiB; none is followed where what is held does.

        Raises ValueError as `costs` does.
        """
        self._teacher.free_text()  # as training does
        self._teacher.free_vae()
        gc.collect()  # what earlier counts left behind would be freed in the middle of this one
        with unlaunched():  # the first of several processes counts for all
            accelerator = Accelerator(cpu=True, mixed_precision="bf16" if self._precision == "bfloat16" else "no")
        groups = recipe.parallel.groups(self.num_processes)
        less, times = _counted_as(recipe, index, groups)
        shards = recipe.parallel.shards(self.num_processes)
        for network in every_network(self._teacher.denoiser):
            if getattr(network, "is_gradient_checkpointing", False):  # since another recipe was counted
                network.disable_gradient_checkpointing()
        try:
            with (
                base_of(self._teacher, recipe.student.base),
                MetaMemory(every_network(self._teacher.denoiser)) as memory,
                AsOnDevice(),
            ):
                # the run's own trainer and networks, on the device meta: shapes without numbers
                layout = PaperLayout(recipe.parallel, self.num_processes, self._teacher, memory) if shards else None
                trainer = untrained_trainer(
                    less, index, self._teacher, self._conditions, self._size, accelerator, 2,
                    None if layout is None else layout.place,
                )  # fmt: skip
                if recipe.gradient_checkpointing:
                    trainer.roles.checkpoint_gradients(recipe.gradient_checkpointing, AsOnDevice)
                # gradients and Adam's moments exist between steps, so they are made before counting begins
                for group in trainer.optimizer_groups.values():
                    for parameter in group.parameters:
                        parameter.grad = torch.zeros_like(parameter)
                    group.step(0.0)  # makes the moments
                if layout is not None:
                    layout.resolve(trainer)
                # one step of each kind, of which the peak and the FLOPs are counted: in every period one has penalties
                held, period = memory.held, trainer.stage.objective.period
                if held / GIB > device_gib:
                    return None
                flops, peak = 0.0, 0
                for step, num_alike in {1: period - 1, period: 1}.items() if period > 1 else [(1, 1)]:
                    trainer.step = step
                    memory.restart()
                    trainer.one_step()
                    flops += memory.flops * num_alike / period
                    peak = max(peak, memory.peak)
                peak += _waiting(trainer, memory, recipe.stages[index].micro_batches(groups) - 2)
        except Exception as error:  # code that lacks numbers may fail in any way
            raise self._uncountable(error) from error
        peak += 0 if layout is None else layout.gathered
        cost = StepCost(recipe.stages[index].name, held / GIB, peak / GIB, times * flops, shards)
        return cost if cost.peak <= device_gib else None

    def _peak_of(self, made: Callable[[], Tensor]) -> int:
        """Bytes at most that a call allocates without gradients."""
        try:
            return _peak_besides(self._teacher, made)[0]
        except Exception as error:  # code that lacks numbers may fail in any way
            raise self._uncountable(error) from error

    def _sampled(self, num_clips: int, guidance: float) -> Tensor:
        z = torch.empty(num_clips, *self._teacher.latent_shape(*self._size), device=META)
        return self._teacher.denoise(z, 0.5, self._conditions[[0] * num_clips], guidance)

    def forward_flops(self) -> int:
        """Of one clip that goes through the teacher once, without guidance: what rollouts are made of.

        Raises ValueError as `costs` does.
        """
        try:
            with torch.no_grad(), MetaMemory() as memory, AsOnDevice():
                self._sampled(1, 1.0)
        except Exception as error:  # code that lacks numbers may fail in any way
            raise self._uncountable(error) from error
        return memory.flops

    def _uncountable(self, error: Exception) -> ValueError:
        reason = " ".join(str(error).split())[:200]
        return ValueError(f"{type(self._teacher.pipeline).__name__} cannot be followed on paper ({reason})")


def _cast(teacher: Teacher, dtype: torch.dtype) -> None:
    """As loading in this precision does: what a network keeps in float32 stays so."""
    for network in every_network(teacher.denoiser):
        for name, parameter in network.to(META).named_parameters():
            if not stays_exact(network, name):
                parameter.data = parameter.data.to(dtype)


def _complete(teacher: Teacher) -> None:
    """Puts in what outlines leave out: image processors, and networks of diffusers' pipelines themselves."""
    pipeline: Any = teacher.pipeline
    for name, part in named_parts(teacher.folder, type(pipeline).__name__).items():
        library = transformers if part.library == "transformers" else getattr(diffusers.pipelines, part.library, None)
        kind: Any = getattr(library, part.class_name, None)
        folder = teacher.folder / name
        wanted = getattr(pipeline, name, None) is None and name not in teacher.unloaded
        if not (wanted and kind is not None and folder.is_dir()):
            continue
        with init_empty_weights():
            made = kind.from_config(kind.load_config(folder)) if hasattr(kind, "from_config") else None
        setattr(pipeline, name, made or kind.from_pretrained(folder))


def _counted_as(recipe: Recipe, index: int, num_groups: int) -> tuple[Recipe, float]:
    """The recipe with one process's share of the stage's batch, in two micro-batches where it has more, and how many
    times the work of these its own are. An average that is kept in main memory is none of the
    device's. Raises ValueError where the processes cannot share the batch equally."""
    stage = recipe.stages[index]
    # two micro-batches show the peak but for what further ones hold (`_waiting`); their FLOPs are multiplied in
    own, clips = stage.micro_batches(num_groups), stage.share(num_groups)
    few, ema = min(own, 2), stage.ema if recipe.average_of(index) == "device" else 0.0
    changes = {"accumulate": few, "batch": clips * few, "ema": ema}
    fewer = stage.model_copy(update=changes)
    stages = [fewer if number == index else other for number, other in enumerate(recipe.stages)]
    return recipe.model_copy(update={"stages": stages}), own / few


def _waiting(trainer: Trainer, memory: MetaMemory, num_further: int) -> int:
    """Bytes of what so many further micro-batches make, which waits where several turns share it."""
    turns = [*trainer.objective.rounds(trainer.step)][-1]
    if num_further <= 0 or len(turns) == 1:
        return 0
    before, lessons = memory.held, list(trainer.lessons(turns))
    return num_further * (memory.held - before) // len(lessons)


def _conditions(teacher: Teacher, size: VideoSize, num_tokens: int | None) -> tuple[Conditions, int]:
    """Of one prompt of so many tokens, and the bytes that making them takes at most; what is given is noise."""
    pipeline: Any = teacher.pipeline
    _complete(teacher)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.to(META)
    if teacher.reads_text and getattr(pipeline, "tokenizer", None) is None:
        pipeline.tokenizer = make_tokenizer()  # its numbers are looked up nowhere
    # masks choose every token where there are no numbers, and some families pad texts: they are cut afterwards
    prompt = " ".join([_WORD] * (num_tokens or teacher.text_limit))
    peak, whole = _peak_besides(teacher, lambda: teacher.conditions_of_any([prompt], "", size))
    return whole if num_tokens is None else whole.shortened(num_tokens), peak


def _peak_besides(teacher: Teacher, made: Callable[[], _T]) -> tuple[int, _T]:
    """Bytes at most that a call without gradients takes besides the pipeline's weights, and what it returns."""
    parts = [part for part in teacher.pipeline.components.values() if isinstance(part, nn.Module)]
    with torch.no_grad(), MetaMemory(parts) as memory, AsOnDevice():
        weights = memory.held
        returned = made()
    return memory.peak - weights, returned
