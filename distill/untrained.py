"""A stage as training makes it, but without data and finished stages: what it costs does not depend on weights."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator
from torch import nn

from fewstep.distill.conversion_plan import planned_predictions
from fewstep.distill.draws import Draws
from fewstep.distill.objectives.base import Batch
from fewstep.distill.parallel import Place, gathered
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import Logging
from fewstep.distill.stages import held_out_batches, stage_roles, stage_supervision
from fewstep.distill.trainer import Trainer
from fewstep.student.adapters import add_adapter, shared_copy
from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import STUDENT_ADAPTER, Roles
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.predictions import record_prediction


class NoiseBatches:
    """Unit noise in place of clips, latents (B, C, F, h, w), with the given conditions one after the other."""

    def __init__(self, teacher: Teacher, size: VideoSize, conditions: Conditions) -> None:
        self._shape, self._device = teacher.latent_shape(*size), teacher.device
        self._conditions = conditions

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """`size` clips on the teacher's device; `progress` is 0..1 of the stage."""
        generator = torch.Generator().manual_seed(position)
        x0 = torch.randn(size, *self._shape, generator=generator).to(self._device)
        rows = [(position * size + i) % len(self._conditions) for i in range(size)]
        draws = Draws((), position, range(position * size, (position + 1) * size))
        return Batch(x0, self._conditions[rows], draws, progress)

    def of_each_size(self, position: int, size: int) -> list[Batch]:
        """One batch: all have one size."""
        return [self.batch(position, size, 0.0)]


def untrained_trainer(
    recipe: Recipe,
    index: int,
    teacher: Teacher,
    conditions: Conditions,
    size: VideoSize,
    accelerator: Accelerator,
    num_steps: int,
    place: Place | None = None,
) -> Trainer:
    """Stage `index` after its first step, so that an objective's warm-up is over; `num_steps` can follow.

    Networks are of the kinds and sizes that a run's are, and all begin as the teacher's own. One thing is smaller: LoRA
    on an earlier stage's whole network stands on the teacher's here, and not on a copy. conditions: of a few prompts,
    which the clips take in turn. place: how networks are held, as `Layout.placing` says. Nothing is read from disk or
    written.
    """
    stage = recipe.stages[index]
    stage = stage.model_copy(update={"steps": max(stage.steps, num_steps + 1)})
    torch.manual_seed(recipe.seed + index)
    # as a run prepares the stage, but from the teacher's weights, with nothing read from disk
    roles = stage_roles(recipe, index, teacher, None, None)
    predictions, supervising_stage = planned_predictions(recipe, teacher.schedule.prediction), recipe.teacher_of(index)
    record_prediction(roles.student, predictions[index])
    roles.supervisor = _supervisor(recipe, index, roles)
    if supervising_stage is not None and roles.supervisor is not roles.backbone:
        record_prediction(roles.supervisor, predictions[supervising_stage])
    if place is not None:
        roles.place(place, gathered)
    # clips are noise: their values change neither time nor memory
    supervision = stage_supervision(stage, teacher)
    batches = NoiseBatches(teacher, size, conditions)
    objective = stage.objective.build(supervision, roles, next(held_out_batches(batches, stage)))
    contract = SamplingContract.of(
        teacher, recipe.teacher, stage.student_steps, roles.weights, size, recipe.guidance_in(index), "",
        teacher.default_fps(), predictions[index], roles.own,
    )  # fmt: skip
    with TemporaryDirectory() as empty:  # there is no checkpoint to resume
        trainer = Trainer(
            stage, roles, objective, batches, contract, accelerator, Logging(), Path(empty), optimizer=recipe.optimizer
        )
    # the first step alone has a discriminator's warm-up
    trainer.step = 1
    return trainer


def _supervisor(recipe: Recipe, index: int, roles: Roles) -> nn.Module:
    """A network such as the recipe's supervisor will be: the teacher, adapters on it, or a copy."""
    supervising_stage, train = recipe.teacher_of(index), recipe.train_of(index)
    if supervising_stage is None or (
        train == "lora" and supervising_stage == recipe.start_of(index) and not recipe.keeps_adapters(supervising_stage)
    ):  # the latter: it is the student's base
        return roles.backbone
    if not recipe.keeps_adapters(supervising_stage):
        return deepcopy(roles.backbone).requires_grad_(False)
    network, lora = shared_copy(roles.backbone), recipe.student.lora
    add_adapter(network, STUDENT_ADAPTER, lora.rank, lora.alpha, lora.targets, roles.teacher.kinds)
    return network.requires_grad_(False)
