"""`fewstep run`: a recipe, followed from its data to its last stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep.commands.run_stages import follow_stages
from fewstep.commands.stage_names import parse_stages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fewstep.commands.run_memory import Machine
    from fewstep.commands.run_screen import RunScreen
    from fewstep.distill.recipe import Recipe


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file of a student, a chain or a small decoder, or a packaged recipe such as shapes-4step.",
        ),
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Overrides a setting: stages.1.lr=1e-4.")
    ] = None,
    again: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Train these stages, and those that build on them, again, with settings that differ.",
        ),
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME",
            help="Train these stages alone, with those that they start from or learn from: arms of a comparison on "
            "several machines, say. By default all.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the resolved recipe and what it costs.")
    ] = False,
    device_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=0.0,
            help="With --dry-run: GPU memory that training must fit into; if it does not, the command says what to "
            "change. By default the memory of the GPU here, if there is one.",
        ),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            min=0.001,
            help="With --dry-run: TFLOP/s that the GPU reaches in training (an H100 about 300 in bfloat16), from "
            "which hours are estimated for each stage.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            metavar="NUM",
            min=1,
            help="With --dry-run: number of GPUs, one process each; memory is then per GPU.",
        ),
    ] = None,
) -> None:
    """Distil a teacher, or a chain of teachers, into a few-step student, or its decoder into a small one.

    Run it again to resume after a stop.
    """
    from fewstep.commands.run_memory import Machine
    from fewstep.commands.run_screen import RunScreen
    from fewstep.teacher.ranks import num_launched

    screen = RunScreen(stdout_is_data=dry_run)
    screen.say(f"reading the recipe {recipe}")  # before torch is imported, which takes seconds
    if not dry_run and (device_memory, tflops, processes) != (None, None, None):
        raise ValueError(
            "--device-memory, --tflops and --processes are for --dry-run alone: add it, or leave them out (torchrun "
            "starts several processes of a run)"
        )
    machine = Machine(device_memory, tflops, processes or num_launched()) if dry_run else None
    follow_recipe(recipe, settings or (), parse_stages(again, "--again") or (), screen, machine, parse_stages(stages))


def follow_recipe(
    recipe: str | Recipe | Mapping[str, Any],
    settings: Sequence[str],
    again: Sequence[str],
    screen: RunScreen,
    dry_run: Machine | None = None,
    stages: Sequence[str] | None = None,
) -> Path:
    """Follows a recipe's file, or one that was made in Python: the run directory.

    dry_run: only shows what it resolves to, and what it costs on this machine. stages: those to train; None: all.
    """
    from fewstep.commands.progress import is_main_process
    from fewstep.distill.chain import is_chain_recipe
    from fewstep.distill.decoder.recipe import is_decoder
    from fewstep.distill.recipe import make_recipe, read_recipe

    # chains and small decoders have recipes of their own
    if stages is not None and isinstance(recipe, str) and (is_chain_recipe(recipe) or is_decoder(recipe)):
        raise ValueError(f"{recipe} has no stages, so {', '.join(stages)} cannot be chosen")
    if isinstance(recipe, str) and is_chain_recipe(recipe):
        from fewstep.commands.chain import run_chain

        return run_chain(recipe, settings, again, dry_run, screen)
    if isinstance(recipe, str) and is_decoder(recipe):
        from fewstep.commands.decoder import run_decoder

        return run_decoder(recipe, settings, again, dry_run, screen)
    plan = read_recipe(recipe, settings) if isinstance(recipe, str) else make_recipe(recipe, settings)
    if dry_run is None:
        with screen:
            follow_stages(plan, again, screen, stages=stages)
    elif is_main_process():
        _show(plan, again, dry_run, screen, stages)
    return plan.out


def _show(
    plan: Recipe, again: Sequence[str], machine: Machine, screen: RunScreen, stages: Sequence[str] | None
) -> None:
    """The resolved recipe and what it costs, once nothing stands in its way."""
    from fewstep.commands.run_checks import again_line, check_run
    from fewstep.commands.run_cost import show_cost
    from fewstep.commands.run_precision import resolve_precision
    from fewstep.distill.data_checks import check_clip_counts
    from fewstep.distill.run_folder import RunFolder
    from fewstep.distill.size_checks import planned_clips
    from fewstep.distill.stage_checks import check_order

    plan, line = resolve_precision(plan)
    if line is not None:
        screen.say(line)
    folder = RunFolder(plan.out)
    # batches as that many processes would share them
    for stage in plan.stages:
        stage.share(plan.parallel.groups(machine.processes))
    outline = check_run(plan, folder, again, machine.processes)
    trained_again = folder.check(plan, again)
    if again:
        screen.say(again_line(again, trained_again))
    chosen = None if stages is None else plan.stages_under(stages)
    check_order(plan, folder, chosen, trained_again)
    if chosen is not None:
        screen.say(f"trained: {', '.join(chosen)} of the stages below")
    if unused := plan.parallel.unused(machine.processes):
        screen.warn(unused)
    if skipped := check_clip_counts(plan, folder, outline.teacher):
        screen.warn(skipped)
    show_cost(plan, outline, screen, machine, planned_clips(plan, outline.teacher, folder.data))
