"""What `fewstep run --dry-run` prints: the resolved recipe, the calls it makes and the memory its weights take."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from torch import nn

from fewstep.commands.tables import print_table

if TYPE_CHECKING:
    from rich.table import Table

    from fewstep.distill.recipe import Recipe
    from fewstep.teacher.outline import Outline
    from fewstep.teacher.schedule import NoiseSchedule


def show(plan: Recipe, outline: Outline) -> None:
    """Prints recipe, calls and memory; the outline is that of the recipe's teacher."""
    from fewstep.student.denoiser import the_denoiser

    typer.echo(plan.dump_yaml())
    print_table(_calls_table(plan, outline.teacher.schedule), stderr=True)
    print_table(_memory_table(plan, the_denoiser(outline.teacher)), stderr=True)
    if not outline.whole:
        typer.echo(
            f"the weights of {plan.teacher} are not on this disk yet: that they are whole, and that datasets and "
            "students are of this teacher, is checked once they are downloaded",
            err=True,
        )


def _calls_table(plan: Recipe, schedule: NoiseSchedule) -> Table:
    from rich.table import Column, Table

    from fewstep.distill.calls import SUPERVISOR, Calls
    from fewstep.distill.conversion_plan import planned_conversions
    from fewstep.distill.estimate import conversion_calls, rollout_calls, stage_calls, total_calls
    from fewstep.distill.objectives.base import STUDENT
    from fewstep.distill.settings import RolloutData, conversion_name
    from fewstep.teacher.caption_files import read_prompts

    total = total_calls(plan, schedule)
    trained = [role for role in dict.fromkeys((STUDENT, *total.forward)) if role != SUPERVISOR]
    headings = [heading for role in trained for heading in (f"{role} forward", "and backward")]
    title = "forwards and backwards of single clips, per process"
    table = Table(Column("stage", no_wrap=True), "teacher calls", *headings, title=title)
    if isinstance(plan.data, RolloutData):
        table.add_row("data", f"{rollout_calls(plan.data, len(read_prompts(plan.data.prompts)), schedule):,}")
    rows, checkpointing = list[tuple[str, Calls]](), plan.gradient_checkpointing
    for stage, conversion in zip(plan.stages, planned_conversions(plan, schedule.prediction), strict=True):
        if conversion is not None:
            rows.append((conversion_name(stage.name), conversion_calls(stage, conversion, checkpointing)))
        rows.append((stage.name, stage_calls(stage, schedule, checkpointing)))
    for name, calls in (*rows, ("all stages", total)):
        counts = [calls.forward.get(SUPERVISOR, 0)]
        counts += [part.get(role, 0) for role in trained for part in (calls.forward, calls.backward)]
        table.add_row(name, *(f"{count:,}" for count in counts))
    return table


def _memory_table(plan: Recipe, network: nn.Module) -> Table:
    from rich.table import Column, Table

    from fewstep.distill.estimate import stage_memory
    from fewstep.student.adapters import num_adapter_parameters

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
    whole, lora = sum(parameter.numel() for parameter in network.parameters()), plan.student.lora
    adapters = num_adapter_parameters(network, lora.rank, lora.alpha, lora.targets)
    for index, stage in enumerate(plan.stages):
        held = stage.objective.holds(network)
        shares = stage_memory(plan, index, whole, adapters, held, plan.precision)
        for share in shares:
            parts = (share.weights, share.gradients, share.moments, share.average)
            table.add_row(stage.name, share.role, *(f"{part:.3f}" for part in parts))
        table.add_row(stage.name, "all", f"{sum(share.total for share in shares):.3f}", end_section=True)
    return table
