"""`fewstep run`: a recipe, followed from its data to its last stage."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewstep import __version__

if TYPE_CHECKING:
    from fewstep.commands.run_screen import RunScreen
    from fewstep.distill.recipe import Recipe
    from fewstep.distill.trackers import Tracker
    from fewstep.teacher.base import Teacher, VideoSize


def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file, or a packaged one such as shapes-4step.")
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Overrides a setting: stages.1.lr=1e-4.")
    ] = None,
    again: Annotated[
        str | None,
        typer.Option(
            metavar="STAGE",
            help="Settings of this stage, and of those that stand on it, may differ: they are trained again.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the resolved recipe and what it costs.")
    ] = False,
) -> None:
    """Distil a teacher into a student of few steps; run it again to go on after a stop."""
    from fewstep.commands.run_screen import RunScreen

    screen = RunScreen(stdout_is_data=dry_run)
    screen.say(f"reading the recipe {recipe}")  # before torch is imported, which takes seconds
    from fewstep.distill.recipe import read_recipe

    plan = read_recipe(recipe, settings or ())
    if dry_run:
        from fewstep.commands.run_cost import show

        show(plan)
        return
    with screen:
        follow(plan, again, screen)


def follow(plan: Recipe, again: str | None = None, screen: RunScreen | None = None) -> None:
    """Makes the data and runs every stage that is not finished, and shows how far it is.

    Of several processes the main one alone makes the data, however long that takes.
    """
    import torch
    from accelerate import Accelerator, InitProcessGroupKwargs

    from fewstep.commands.run_screen import RunScreen
    from fewstep.commands.run_watch import gauges, samples
    from fewstep.distill.data import read_clips
    from fewstep.distill.estimate import stage_work
    from fewstep.distill.run_folder import RunFolder
    from fewstep.distill.stages import Relay
    from fewstep.distill.trackers import NoTracker, check_tracker, open_tracker
    from fewstep.teacher.atomic import check_writable
    from fewstep.teacher.base import load_teacher
    from fewstep.teacher.interrupts import deferred_interrupt

    check_writable(plan.out)
    check_tracker(plan.logging.tracker)
    bf16 = plan.precision == "bfloat16"
    # under autocast norms keep float32 weights, as they should, and torch says of each that it is not the fastest way
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
    patient = InitProcessGroupKwargs(timeout=timedelta(days=30))
    accelerator = Accelerator(
        cpu=plan.device == "cpu", mixed_precision="bf16" if bf16 else "no", kwargs_handlers=[patient]
    )
    folder, screen, device = RunFolder(plan.out), screen or RunScreen(), plan.device or accelerator.device
    screen.say(f"loading the teacher {plan.teacher} ({plan.precision}, {device})")
    teacher = load_teacher(plan.teacher, torch.bfloat16 if bf16 else torch.float32, device)
    data = plan.data.folder if plan.data.kind == "dataset" else folder.data
    tracker: Tracker = NoTracker()
    if accelerator.is_main_process:
        folder.begin(plan, again)
        screen.log_to(plan.out)
        screen.log(f"fewstep {__version__}: {shlex.join(['fewstep', *sys.argv[1:]])}, process {os.getpid()}")
        tracker = open_tracker(plan)  # before the data: one that does not start costs nothing
        if data == folder.data:
            _make_data(plan, teacher, data, screen)
    accelerator.wait_for_everyone()
    clips = read_clips(data, teacher, _asked_size(plan))
    if plan.logging.prompts:
        screen.say(f"embedding the {len(plan.logging.prompts)} prompts of sample clips")
    seen, measured = samples(teacher, plan), gauges(teacher, plan)
    teacher.free_text()
    if seen is None and not measured:
        teacher.free_vae()
    todo = [stage for stage in plan.stages if not folder.finished(stage.name)]
    screen.expect([stage_work(stage, teacher.schedule, plan.gradient_checkpointing) for stage in todo])
    with deferred_interrupt() as interrupted, tracker:
        Relay(plan, folder, teacher, clips, accelerator, screen, interrupted, measured, seen, tracker).run()
    accelerator.end_training()  # a process group that is left to the interpreter's end may abort there
    screen.say(f"the student is in {plan.out}: `fewstep sample {plan.out} --prompt ... --out clip.mp4`")


def _make_data(plan: Recipe, teacher: Teacher, out: Path, screen: RunScreen) -> None:
    """Raises ValueError when neither the recipe nor the teacher states a size, or the source cannot be read."""
    from fewstep.distill.data import make_data

    size = _asked_size(plan) or teacher.default_size()
    if size is None:
        raise ValueError("the teacher states no size of its own: set size.num_frames, size.height and size.width")
    screen.say("planning the data, with a hash of the teacher's weights")
    with screen.clips() as on_clip:
        make_data(plan.data, teacher, plan.teacher, size, out, on_clip)


def _asked_size(plan: Recipe) -> VideoSize | None:
    from fewstep.teacher.base import VideoSize

    return None if plan.size is None else VideoSize(plan.size.num_frames, plan.size.height, plan.size.width)
