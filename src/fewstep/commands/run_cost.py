"""What `fewstep run --dry-run` prints: the resolved recipe, the calls it makes and the memory its weights take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer
from torch import nn

from fewstep.commands.run_disk import show_disk
from fewstep.commands.run_memory import Machine, show_memory
from fewstep.commands.tables import print_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table

    from fewstep.commands.progress import Screen
    from fewstep.distill.estimate import RoleMemory
    from fewstep.distill.recipe import Recipe
    from fewstep.distill.settings import Stage
    from fewstep.teacher.base import Teacher, VideoSize
    from fewstep.teacher.outline import Outline
    from fewstep.teacher.schedule import NoiseSchedule


@dataclass(frozen=True)
class HeldInStage:
    """What the roles of a stage hold, and the parameters of the networks and adapters that it trains."""

    shares: list[RoleMemory]
    num_trained: int
    num_adapters: int


def show_cost(
    plan: Recipe, outline: Outline, screen: Screen, machine: Machine, clips: Mapping[VideoSize, int] | None = None
) -> None:
    """Prints recipe, calls, memory and disk; the outline is that of the recipe's teacher, and is used up.

    clips: how many of each size.
    """
    from fewstep.distill.size_checks import clip_sizes, largest_size

    # the recipe alone goes to standard output, so that it can be saved as a file
    typer.echo(plan.dump_yaml())
    print_table(_calls_table(plan, outline.teacher.schedule), stderr=True)
    held = _held(plan, outline.teacher)
    print_table(_memory_table(plan, held), stderr=True)
    if clips is not None and len(clips) > 1:
        print_table(_sizes_table(outline.teacher, clips), stderr=True)
        typer.echo(_largest_line(outline.teacher, list(clips)), err=True)
    for line in _expert_lines(plan, outline.teacher):
        typer.echo(line, err=True)
    if not outline.whole:
        typer.echo(
            f"the weights of {plan.teacher} are not on this disk yet: that they are whole, and that datasets and "
            "students are of this teacher, is checked once they are downloaded",
            err=True,
        )
    sizes = list(clips) if clips else clip_sizes(plan, outline.teacher)
    text_numbers = show_memory(plan, outline, largest_size(outline.teacher, sizes), machine, screen)
    show_disk(plan, outline.teacher, held, clips, text_numbers, machine.processes, screen)


def _sizes_table(teacher: Teacher, clips: Mapping[VideoSize, int]) -> Table:
    from rich.table import Table

    from fewstep.teacher.source import size_text

    table = Table("size", "clips", "latents", title="clips of each size, at most")
    for size, count in clips.items():
        table.add_row(size_text(size), f"{count:,}", " x ".join(map(str, teacher.latent_shape(*size))))
    return table


def _largest_line(teacher: Teacher, sizes: Sequence[VideoSize]) -> str:
    from fewstep.distill.size_checks import largest_size
    from fewstep.teacher.source import size_text

    return (
        f"clips of {len(sizes)} sizes: {size_text(largest_size(teacher, sizes))} is the largest; count every call as "
        "one of that size"
    )


def _calls_table(plan: Recipe, schedule: NoiseSchedule) -> Table:
    from rich.table import Column, Table

    from fewstep.distill.calls import SUPERVISOR, Calls
    from fewstep.distill.conversion_plan import planned_conversions
    from fewstep.distill.estimate import conversion_calls, data_calls, stage_calls, total_calls
    from fewstep.distill.objectives.base import STUDENT
    from fewstep.distill.settings import conversion_name

    total = total_calls(plan, schedule)
    trained = [role for role in dict.fromkeys((STUDENT, *total.forward)) if role != SUPERVISOR]
    headings = [heading for role in trained for heading in (f"{role} forward", "and backward")]
    title = "forwards and backwards of single clips, of all processes together"
    table = Table(Column("stage", no_wrap=True), "teacher calls", *headings, title=title)
    # rollouts are the teacher's calls, and made before any stage
    if of_data := data_calls(plan, schedule):
        table.add_row("data", f"{of_data:,}")
    rows, checkpointing = list[tuple[str, Calls]](), bool(plan.gradient_checkpointing)
    for stage, conversion in zip(plan.stages, planned_conversions(plan, schedule.prediction), strict=True):
        # a student of eps must predict something else before a 1-step stage (arXiv 2402.13929)
        if conversion is not None:
            rows.append((conversion_name(stage.name), conversion_calls(stage, conversion, checkpointing)))
        rows.append((stage.name, stage_calls(stage, schedule, checkpointing)))
    for name, calls in (*rows, ("all stages", total)):
        counts = [calls.forward.get(SUPERVISOR, 0)]
        counts += [part.get(role, 0) for role in trained for part in (calls.forward, calls.backward)]
        table.add_row(name, *(f"{count:,}" for count in counts))
    return table


def _expert_lines(plan: Recipe, teacher: Teacher) -> list[str]:
    """Of a teacher with two experts, to whom each stage's nodes belong and who is trained."""
    from fewstep.distill.expert_plan import expert_plan, nodes_by_expert
    from fewstep.teacher.experts import Experts

    experts = teacher.denoiser
    if not isinstance(experts, Experts):
        return []
    lines = ["both experts are in memory at once: times on both sides of the boundary meet in a batch"]
    for stage in plan.stages:
        nodes, trained = teacher.schedule.grid(stage.student_steps)[:-1], expert_plan(stage, teacher).trained or ()
        lines.append(f"{stage.name} trains {' and '.join(trained)}: of its nodes {nodes_by_expert(experts, nodes)}")
    return lines


def _held(plan: Recipe, teacher: Teacher) -> list[HeldInStage]:
    """Of every stage: weights, gradients, the optimizer's moments and EMA of its roles, and what it trains."""
    from fewstep.distill.estimate import stage_memory
    from fewstep.distill.expert_plan import expert_plan

    assert plan.precision != "auto"
    held, counts = list[HeldInStage](), dict[tuple[str, ...] | None, dict[str, Any]]()
    for index, stage in enumerate(plan.stages):
        # adapters are counted by making them, so stages in which the same experts learn are counted once
        learning = expert_plan(stage, teacher).trained
        counted = counts[learning] = counts.get(learning) or _count(teacher, plan, stage)
        besides = stage.objective.holds(teacher.denoiser, teacher.kinds)
        shares = stage_memory(plan, index, held=besides, frozen=plan.precision, **counted)
        num_trained = counted.get("num_trained", counted["num_parameters"])
        held.append(HeldInStage(shares, num_trained, counted["num_adapters"]))
    return held


def _memory_table(plan: Recipe, held: Sequence[HeldInStage]) -> Table:
    from rich.table import Column, Table

    table = Table(
        Column("stage", no_wrap=True),
        "role",
        "weights",
        "gradients",
        "moments",
        "average",
        title="GiB of whole networks, without activations",
    )
    for stage, own in zip(plan.stages, held, strict=True):
        for share in own.shares:
            parts = (share.weights, share.gradients, share.moments, share.average)
            table.add_row(stage.name, share.role, *(f"{part:.3f}" for part in parts))
        table.add_row(stage.name, "all", f"{sum(share.total for share in own.shares):.3f}", end_section=True)
    return table


def _count(teacher: Teacher, plan: Recipe, stage: Stage) -> dict[str, Any]:
    """Parameters of the denoiser, of those of its experts that learn, and of their adapters."""
    from fewstep.distill.expert_plan import expert_plan
    from fewstep.student.adapters import num_adapter_parameters
    from fewstep.student.few_bits import chosen_layers
    from fewstep.student.part import part_parameters
    from fewstep.teacher.experts import parts_of

    parts, lora, names = parts_of(teacher.denoiser), plan.student.lora, expert_plan(stage, teacher).trained
    learning = [part for name, part in parts.items() if names is None or name in names]
    counts: dict[str, Any] = {"num_parameters": _numel(teacher.denoiser)}
    # of two experts those that learn in this stage: by its nodes, or as it names them
    if names is not None:
        counts |= {"num_experts": len(parts), "num_trained": sum(map(_numel, learning))}
    # of a part that is trained alone, such as motion modules, only its own parameters
    if teacher.kinds is not None:
        trained = (p.numel() for part in learning for p in part_parameters(part, teacher.kinds).values())
        counts |= {"num_trained": sum(trained), "is_part": True}
    if plan.student.base is not None:
        counts["num_few_bits"] = sum(layer.weight.numel() for layer in chosen_layers(teacher, plan.student.base))
    adapters = (num_adapter_parameters(part, lora.rank, lora.alpha, lora.targets, teacher.kinds) for part in learning)
    return counts | {"num_adapters": sum(adapters)}


def _numel(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
