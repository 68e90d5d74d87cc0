"""What a run's stages would stumble over, found before the teacher is loaded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from fewstep.distill import sharded_checkpoint
from fewstep.distill.checkpoint import is_unfinished, load_state, unfinished_parts
from fewstep.distill.conversion_plan import planned_conversions
from fewstep.distill.expert_plan import check_samples, check_supervisor, expert_plan
from fewstep.distill.optimizers import check_optimizer
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import RunFolder
from fewstep.distill.stages import check_gate
from fewstep.student.adapters import add_adapter, shared_copy
from fewstep.student.contract import read_contract
from fewstep.student.denoiser import STUDENT_ADAPTER
from fewstep.student.few_bits import check_base
from fewstep.student.weights import check_weights
from fewstep.teacher.experts import parts_of
from fewstep.teacher.outline import Outline


def check_networks(recipe: Recipe, outline: Outline) -> None:
    """Raises ValueError when the teacher's denoiser cannot be trained or read as the stages ask.

    LoRA fits none of its modules, it cannot compute activations again, the expert that a stage trains has no node, or
    an objective cannot work with it: it has no blocks that a discriminator could read, say. When a student of one
    step would predict eps (`planned_conversions`), and when torchao is missing where moments or weights need it.
    """
    check_optimizer(recipe.optimizer)
    if (base := recipe.student.base) is not None:
        check_base(outline.teacher, base)
    # plans are made for their errors alone here; a run makes them again
    planned_conversions(recipe, outline.teacher.schedule.prediction)
    for index, stage in enumerate(recipe.stages):
        expert_plan(stage, outline.teacher)
        check_supervisor(recipe, index, outline.teacher)
        check_samples(recipe, index, outline.teacher)
    # adapters and gradient checkpointing are tried on copies: the outline stays as it was
    network, lora = outline.teacher.denoiser, recipe.student.lora
    if any(recipe.train_of(index) == "lora" for index in range(len(recipe.stages))):
        add_adapter(shared_copy(network), STUDENT_ADAPTER, lora.rank, lora.alpha, lora.targets, outline.teacher.kinds)
    if recipe.gradient_checkpointing:
        for part in parts_of(shared_copy(network)).values():
            _check_checkpointing(part)
    for stage in recipe.stages:
        stage.objective.check_network(outline.teacher, network)


def check_finished_stages(recipe: Recipe, folder: RunFolder, outline: Outline, trained_again: Collection[str]) -> None:
    """Raises ValueError when a finished stage lost its result, contract or weights, or its gate does not open, and when
    the checkpoint of the stage that comes next is broken. Stages that are `trained_again` are not looked at."""
    network = outline.teacher.denoiser
    stages = [stage for stage in recipe.stages if stage.name not in trained_again]
    unfinished = [stage.name for stage in stages if not folder.finished(stage.name)]
    for name in unfinished:  # a checkpoint that would be resumed raises here where it is broken
        sharded_checkpoint.find(folder.path, name)
        if load_state(folder.path, name, mmap=True) is not None:
            break  # there are no others
    for stage in stages:
        if stage.name in unfinished:
            continue
        contract = read_contract(folder.stage(stage.name))
        if outline.whole:
            contract.check_teacher(outline.teacher)
        check_weights(folder.stage(stage.name), network)
        check_gate(stage, folder)


def check_order(
    recipe: Recipe, folder: RunFolder, chosen: Collection[str] | None, trained_again: Sequence[str] = ()
) -> None:
    """Raises ValueError when a stage has begun and another would be trained before it, whose checkpoint would replace
    its own. Or when one that is not `chosen` is among those whose students are deleted, to be trained again.

    chosen: names of the stages to train; None: all.
    """
    names = [stage.name for stage in recipe.stages]
    chosen = names if chosen is None else chosen
    if lost := [name for name in trained_again if name not in chosen]:
        raise ValueError(
            f"--again trains {', '.join(lost)} again, which --stages leaves out: name what it trains with --stages as "
            "well, or leave --stages out"
        )
    # of those that are trained again nothing stays, and a run directory has one checkpoint
    unfinished = [name for name in names if not folder.finished(name) or name in trained_again]
    parts = unfinished_parts(folder.path) if unfinished else set()
    begun = next((name for name in unfinished if name not in trained_again and is_unfinished(name, parts)), None)
    if begun is None:
        return
    if begun not in chosen:
        raise ValueError(
            f"{begun} is left out, and {folder.path} has a checkpoint of it, which the next stage would replace: name "
            f"it with --stages, to end it first, or {folder.elsewhere}"
        )
    first = next(name for name in unfinished if name in chosen)
    if first != begun:
        raise ValueError(
            f"{folder.path} has a checkpoint of {begun}, which {first} would replace, as it is trained before: end "
            f"{begun} first with --stages {begun}, or {folder.elsewhere}"
        )


def _check_checkpointing(network: Any) -> None:
    try:
        network.enable_gradient_checkpointing()
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"gradient_checkpointing: {type(network).__name__} cannot compute its activations again: set it to false"
        ) from error
