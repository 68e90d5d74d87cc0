"""`fewstep run`: a recipe, followed from its data to its last stage."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fewstep.distill.recipe import Recipe
    from fewstep.teacher.base import VideoSize


def run(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A YAML file, or a packaged one such as shapes-4step.")
    ],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Overrides a setting: stages.1.lr=1e-4.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the resolved recipe and what it costs.")
    ] = False,
) -> None:
    """Distil a teacher into a student of few steps; run it again to go on after a stop."""
    from fewstep.distill.recipe import read_recipe

    plan = read_recipe(recipe, settings or ())
    if dry_run:
        from fewstep.commands.run_cost import show

        show(plan)
        return
    follow(plan)


def follow(plan: Recipe) -> None:
    """Makes the data and runs every stage that is not finished, under progress bars."""
    import torch
    from accelerate import Accelerator

    from fewstep.commands.run_screen import RunScreen
    from fewstep.commands.run_watch import gauges, samples
    from fewstep.distill.data import make_data
    from fewstep.distill.run_folder import RunFolder
    from fewstep.distill.stages import Relay
    from fewstep.teacher.atomic import check_writable
    from fewstep.teacher.base import load_teacher
    from fewstep.teacher.interrupts import deferred_interrupt

    check_writable(plan.out)
    bf16 = plan.precision == "bfloat16"
    # under autocast norms keep float32 weights, as they should, and torch says of each that it is not the fastest way
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
    accelerator = Accelerator(cpu=plan.device == "cpu", mixed_precision="bf16" if bf16 else "no")
    teacher = load_teacher(plan.teacher, torch.bfloat16 if bf16 else torch.float32, plan.device or accelerator.device)
    size = clip_size(plan, teacher.default_size())
    folder = RunFolder(plan.out)
    folder.begin(plan)
    screen = RunScreen(quiet=not accelerator.is_main_process)
    with accelerator.main_process_first(), screen.clips() as on_clip:
        data = make_data(plan.data, teacher, plan.teacher, size, folder.data, on_clip)
    seen, measured = samples(teacher, plan), gauges(teacher, plan)
    teacher.free_text()
    if seen is None and not measured:
        teacher.free_vae()
    with deferred_interrupt() as interrupted:
        Relay(plan, folder, teacher, data, size, accelerator, screen, interrupted, measured, seen).run()
    accelerator.end_training()  # a process group that is left to the interpreter's end may abort there
    screen.say(f"the student is in {plan.out}: `fewstep sample {plan.out} --prompt ... --out clip.mp4`")


def clip_size(plan: Recipe, default: VideoSize | None) -> VideoSize:
    """The recipe's size, else the teacher's. Raises ValueError when neither says."""
    from fewstep.teacher.base import VideoSize

    if plan.size is not None:
        return VideoSize(plan.size.num_frames, plan.size.height, plan.size.width)
    if default is None:
        raise ValueError("the teacher states no size of its own: set size.num_frames, size.height and size.width")
    return default
