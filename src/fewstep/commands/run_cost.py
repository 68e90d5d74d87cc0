"""What `fewstep run --dry-run` prints: the resolved recipe, the calls it makes and the memory its weights take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import typer
from torch import nn

from fewstep.commands.tables import print_table

if TYPE_CHECKING:
    from rich.table import Table

    from fewstep.distill.discriminator import DiscriminatorSettings
    from fewstep.distill.recipe import Recipe
    from fewstep.distill.settings import Stage
    from fewstep.teacher.base import Teacher
    from fewstep.teacher.outline import Outline
    from fewstep.teacher.schedule import NoiseSchedule


def show(plan: Recipe, outline: Outline) -> None:
    """Prints recipe, calls and memory; the outline is that of the recipe's teacher."""
    typer.echo(plan.dump_yaml())
    print_table(_calls_table(plan, outline.teacher.schedule), stderr=True)
    print_table(_memory_table(plan, outline.teacher), stderr=True)
    for line in _expert_lines(plan, outline.teacher):
        typer.echo(line, err=True)
    if not outline.whole:
        typer.echo(
            f"the weights of {plan.teacher} are not on this disk yet: that they are whole, and that datasets and "
            "students are of this teacher, is checked once they are downloaded",
            err=True,
        )


def _calls_table(plan: Recipe, schedule: NoiseSchedule) -> Table:
    from rich.table import Column, Table

    from fewstep.distill.conversion_plan import planned_conversions
    from fewstep.distill.estimate import Calls, conversion_calls, rollout_calls, stage_calls, total_calls
    from fewstep.distill.settings import RolloutData, conversion_name
    from fewstep.teacher.caption_files import read_prompts

    headings = (
        Column("stage", no_wrap=True),
        "teacher calls",
        "student forward",
        "and backward",
        "discriminator forward",
        "and backward",
    )
    table = Table(*headings, title="forwards and backwards of single clips, per process")
    if isinstance(plan.data, RolloutData):
        table.add_row("data", f"{rollout_calls(plan.data, len(read_prompts(plan.data.prompts)), schedule):,}")
    rows, checkpointing = list[tuple[str, Calls]](), plan.gradient_checkpointing
    for stage, conversion in zip(plan.stages, planned_conversions(plan, schedule.prediction), strict=True):
        if conversion is not None:
            rows.append((conversion_name(stage.name), conversion_calls(stage, conversion, checkpointing)))
        rows.append((stage.name, stage_calls(stage, schedule, checkpointing)))
    for name, calls in (*rows, ("all stages", total_calls(plan, schedule))):
        counts = (
            calls.supervisor,
            calls.student_forward,
            calls.student_backward,
            calls.discriminator_forward,
            calls.discriminator_backward,
        )
        table.add_row(name, *(f"{count:,}" for count in counts))
    return table


def _expert_lines(plan: Recipe, teacher: Teacher) -> list[str]:
    """Of a teacher with two experts, to whom each stage's nodes belong and who is trained."""
    from fewstep.distill.expert_plan import expert_plan, whose
    from fewstep.teacher.experts import Experts

    experts = teacher.denoiser
    if not isinstance(experts, Experts):
        return []
    lines = ["both experts are in memory at once: times on both sides of the boundary meet in a batch"]
    for stage in plan.stages:
        nodes, trained = teacher.schedule.grid(stage.student_steps)[:-1], expert_plan(stage, teacher).trained or ()
        lines.append(f"{stage.name} trains {' and '.join(trained)}: of its nodes {whose(experts, nodes)}")
    return lines


def _memory_table(plan: Recipe, teacher: Teacher) -> Table:
    from rich.table import Column, Table

    from fewstep.distill.estimate import stage_memory

    assert plan.precision != "auto"
    table = Table(
        Column("stage", no_wrap=True),
        "role",
        "weights",
        "gradients",
        "moments",
        "average",
        title="GiB, without activations",
    )
    for index, stage in enumerate(plan.stages):
        shares = stage_memory(plan, index, **_count(teacher, plan, stage), frozen=plan.precision)
        for share in shares:
            parts = (share.weights, share.gradients, share.moments, share.average)
            table.add_row(stage.name, share.role, *(f"{part:.3f}" for part in parts))
        table.add_row(stage.name, "all", f"{sum(share.total for share in shares):.3f}", end_section=True)
    return table


def _count(teacher: Teacher, plan: Recipe, stage: Stage) -> dict[str, int]:
    """Parameters of the denoiser, of those of its experts that learn and their adapters, and of the discriminator."""
    from fewstep.distill.expert_plan import expert_plan
    from fewstep.distill.objectives.adversarial import Adversarial
    from fewstep.teacher.experts import parts_of

    parts, lora, names = parts_of(teacher.denoiser), plan.student.lora, expert_plan(stage, teacher).trained
    learning = [part for name, part in parts.items() if names is None or name in names]
    found = {"num_parameters": _numel(teacher.denoiser)}
    if names is not None:
        found |= {"num_experts": len(parts), "num_trained": sum(map(_numel, learning))}
    found["num_adapters"] = sum(_adapters(part, lora.rank, lora.alpha, lora.targets) for part in learning)
    if isinstance(stage.objective, Adversarial):
        settings = stage.objective.discriminator
        found["num_heads"] = len(settings.depths) * _head(learning[0], settings, 1 + stage.objective.conditional)
        found["num_discriminator_adapters"] = _adapters(teacher.denoiser, settings.lora_rank, settings.lora_rank)
    return found


def _adapters(network: nn.Module, rank: int, alpha: float, targets: Sequence[str] | None = None) -> int:
    from fewstep.student.adapters import adapter_parameters, add_adapter, shared_copy

    with torch.device("meta"):
        adapted = shared_copy(network)
        add_adapter(adapted, "student", rank, alpha, targets)
    return sum(parameter.numel() for parameter in adapter_parameters(adapted, "student").values())


def _head(network: Any, settings: DiscriminatorSettings, reads: int) -> int:
    """Parameters of one head, on features as wide as a transformer's tokens or a UNet's widest block."""
    from fewstep.distill.heads import Head

    config = network.config
    wide = (
        max(config.block_out_channels)
        if "block_out_channels" in config
        else (config.num_attention_heads * config.attention_head_dim)
    )
    with torch.device("meta"):
        return _numel(Head(wide, reads, settings.width, settings.temporal, settings.norm))


def _numel(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
