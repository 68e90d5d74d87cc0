"""`fewstep run`: a recipe, followed from its data to its last stage."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from accelerate import Accelerator

    from fewstep.commands.run_memory import Machine
    from fewstep.commands.run_screen import RunScreen
    from fewstep.distill.data_recipe import DataRecipe
    from fewstep.distill.recipe import Recipe
    from fewstep.distill.run_folder import RunFolder
    from fewstep.distill.trackers import Tracker
    from fewstep.teacher.base import Teacher, VideoSize
    from fewstep.teacher.ranks import Ranks


def run(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, also of a chain or a small decoder, or a packaged one such as shapes-4step.",
        ),
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
    device_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GIB",
            min=0.0,
            help="With --dry-run: memory of the GPU that it must fit into, and what to change where it does not; by "
            "default that of the GPU here, if there is one.",
        ),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            metavar="RATE",
            min=0.001,
            help="With --dry-run: operations per second, in trillions, that the GPU reaches in training (an H100 some "
            "300 in bfloat16): stages then show their hours.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            metavar="NUM",
            min=1,
            help="With --dry-run: GPUs that share the run, a process each; memory is then that of one of them.",
        ),
    ] = None,
) -> None:
    """Distil a teacher, or a chain of them, into a student of few steps, or its decoder into a small one.

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
    follow_recipe(recipe, settings or (), again, screen, machine)


def follow_recipe(
    recipe: str | Recipe | Mapping[str, Any],
    settings: Sequence[str],
    again: str | None,
    screen: RunScreen,
    dry_run: Machine | None = None,
) -> Path:
    """Follows a recipe's file, or one that was made in Python: the run directory.

    dry_run: only shows what it resolves to, and what it costs on this machine.
    """
    from fewstep.commands.progress import is_main_process
    from fewstep.distill.chain import is_chain
    from fewstep.distill.decoder.recipe import is_decoder
    from fewstep.distill.recipe import make_recipe, read_recipe

    if isinstance(recipe, str) and is_chain(recipe):
        from fewstep.commands.chain import run_chain

        return run_chain(recipe, settings, again, dry_run, screen)
    if isinstance(recipe, str) and is_decoder(recipe):
        from fewstep.commands.decoder import run_decoder

        return run_decoder(recipe, settings, again, dry_run is not None, screen)
    plan = read_recipe(recipe, settings) if isinstance(recipe, str) else make_recipe(recipe, settings)
    if dry_run is None:
        with screen:
            follow(plan, again, screen)
    elif is_main_process():
        _show(plan, again, dry_run, screen)
    return plan.out


def _show(plan: Recipe, again: str | None, machine: Machine, screen: RunScreen) -> None:
    """The resolved recipe and what it costs, once nothing stands in its way."""
    from fewstep.commands.run_checks import check_run
    from fewstep.commands.run_cost import show
    from fewstep.commands.run_precision import settle_precision
    from fewstep.distill.data_checks import check_foreseen
    from fewstep.distill.parallel import check_sharded
    from fewstep.distill.run_folder import RunFolder
    from fewstep.distill.size_checks import planned_clips

    plan, line = settle_precision(plan)
    if line is not None:
        screen.say(line)
    folder = RunFolder(plan.out)
    for stage in plan.stages:
        stage.share(machine.processes)
    outline = check_run(plan, folder, again)
    if plan.parallel.kind == "fsdp" and machine.processes > 1:
        check_sharded(outline.teacher, [stage.guidance for stage in plan.stages])
    if skipped := check_foreseen(plan, folder, outline.teacher):
        screen.warn(skipped)
    show(plan, outline, screen, machine, planned_clips(plan, outline.teacher, folder.data))


def follow(plan: Recipe, again: str | None = None, screen: RunScreen | None = None, option: str | None = None) -> None:
    """Makes the data and runs every stage that is not finished, and shows how far it is.

    `option` is how another folder is chosen, where that is not with --set out=DIR.

    Raises ValueError, before the teacher is loaded, for all that `--dry-run` refuses.
    """
    from accelerate import Accelerator

    from fewstep.commands.run_checks import check_run
    from fewstep.commands.run_precision import settle_for_all
    from fewstep.commands.run_screen import RunScreen
    from fewstep.distill.processes import check_same
    from fewstep.distill.run_folder import OPTION, RunFolder
    from fewstep.teacher.ranks import current_ranks, join_processes, num_launched, on_cpu

    folder, screen = RunFolder(plan.out, option or OPTION), screen or RunScreen()
    cpu = on_cpu(plan.device, num_launched())
    join_processes(cpu)
    # under autocast norms keep float32 weights, as they should, and torch says of each that it is not the fastest way
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
    with current_ranks() as ranks:
        plan, precision_line = settle_for_all(plan, ranks)
        if precision_line is not None:
            screen.say(precision_line)
        accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if plan.precision == "bfloat16" else "no")
        for stage in plan.stages:
            stage.share(accelerator.num_processes)
        check_same(accelerator, {"recipe": plan.sha256()}, "start all of them with the same recipe and settings")
        if ranks.first:
            check_run(plan, folder, again)
        ranks.wait()
        with folder.locked(ranks.first):
            _follow(plan, folder, again, accelerator, screen, ranks)
    accelerator.end_training()  # a process group that is left to the interpreter's end may abort there


def _follow(
    plan: Recipe, folder: RunFolder, again: str | None, accelerator: Accelerator, screen: RunScreen, ranks: Ranks
) -> None:
    """The run itself, once nothing stands in its way."""
    import torch

    from fewstep.commands.run_watch import gauges, samples
    from fewstep.distill.data import read_clips_of_bases
    from fewstep.distill.data_report import check_usable
    from fewstep.distill.estimate import relay_work
    from fewstep.distill.processes import expect_answers
    from fewstep.distill.size_checks import check_filled, clip_sizes
    from fewstep.distill.stages import Relay
    from fewstep.distill.trackers import NoTracker, open_tracker
    from fewstep.teacher.base import load_teacher
    from fewstep.teacher.interrupts import noted_signals

    device = plan.device or accelerator.device
    screen.say(f"loading the teacher {plan.teacher} ({plan.precision}, {device})")
    teacher = load_teacher(plan.teacher, getattr(torch, plan.precision), device, plan.shift)
    teacher.tell(plan.embedded_guidance, plan.control_scale)
    bases = _bases(plan, teacher, screen)
    data = plan.data.folder if plan.data.kind == "dataset" else folder.data
    others = [folder.of_base(number).data for number in range(1, len(bases) + 1)]
    tracker: Tracker = NoTracker()
    if accelerator.is_main_process:
        folder.begin(plan, again)
        screen.log_to(plan.out)
        screen.log(f"fewstep {__version__}: {screen.command}, process {os.getpid()}")
        _say_text(plan, teacher, data, screen)
        tracker = open_tracker(plan)  # before the data: one that does not start costs nothing
    ranks.wait()
    if data == folder.data:
        sizes = clip_sizes(plan, teacher)
        for number, (name, base) in enumerate(zip((plan.teacher, *plan.bases), (teacher, *bases), strict=True)):
            make_run_data(plan, base, name, sizes, folder.of_base(number), screen, ranks)
    expect_answers()
    for made in (data, *others):
        if line := check_usable(plan.data, made):
            screen.warn(line)
        check_filled(plan, made)
    clips = read_clips_of_bases(data, others, teacher, bases, plan.sizes)
    teacher.take(clips.given)
    teacher.use_size(clips.size)
    if plan.logging.prompts:
        screen.say(f"embedding the {len(plan.logging.prompts)} prompts of sample clips")
    seen, measured = samples(teacher, plan, clips.size), gauges(teacher, plan, ranks)
    for base in bases:
        base.free_text()
        base.free_vae()
    teacher.free_text()
    if seen is None and not measured:
        teacher.free_vae()
    screen.expect(relay_work(plan, teacher.schedule, folder.finished))
    with noted_signals() as signals, tracker:
        Relay(plan, folder, teacher, clips, accelerator, screen, signals, measured, seen, tracker).run()
    shown = ["--prompt ..."] if teacher.reads_text else []
    shown += [f"--given {name}=FILE" for name in teacher.given]
    screen.say(f"the student is in {plan.out}: `fewstep sample {plan.out} {' '.join(shown)} --out clip.mp4`")


def _say_text(plan: Recipe, teacher: Teacher, data: Path, screen: RunScreen) -> None:
    """Says which captions describe no video, and what the text encoder does not read of captions and prompts."""
    from fewstep.distill.data_report import read_data_text
    from fewstep.teacher.tokens import text_losses

    text = read_data_text(plan.data, data)
    if text.unmatched:
        screen.warn(str(text.unmatched))
    for line in text_losses(teacher, [*text.prompts, *plan.logging.sampled]):
        screen.warn(line)


def _bases(plan: Recipe, teacher: Teacher, screen: RunScreen) -> list[Teacher]:
    """The teachers of further base models; from now on the teacher's denoiser is that of all of them."""
    import torch

    from fewstep.teacher.base import load_teacher
    from fewstep.teacher.base_models import join_bases

    teacher.restrict(plan.student.only)

    def load(name: str) -> Teacher:
        screen.say(f"loading the base model {name}")
        return load_teacher(name, getattr(torch, plan.precision), teacher.device)

    return join_bases(teacher, plan.bases, load) if plan.bases else []


def make_run_data(
    plan: DataRecipe,
    teacher: Teacher,
    name: str,
    sizes: Sequence[VideoSize],
    folder: RunFolder,
    screen: RunScreen,
    ranks: Ranks,
) -> None:
    """What a run makes for itself to learn from. Raises ValueError when the source cannot be read."""
    from fewstep.distill.data import make_data

    screen.say(f"planning the data of {name}, with a hash of the teacher's weights")
    with screen.clips() as on_clip:
        make_data(plan.data, teacher, name, sizes, folder.data, on_clip, folder.elsewhere, ranks)
