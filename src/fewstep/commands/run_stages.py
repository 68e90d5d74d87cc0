"""What `fewstep run` does once its recipe is checked: the data, then every stage that is not finished."""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from accelerate import Accelerator

    from fewstep.commands.run_screen import RunScreen
    from fewstep.distill.data_recipe import DataRecipe
    from fewstep.distill.recipe import Recipe
    from fewstep.distill.run_folder import RunFolder
    from fewstep.distill.tracker import Tracker
    from fewstep.teacher.base import Teacher, VideoSize
    from fewstep.teacher.ranks import Ranks


def follow_stages(
    plan: Recipe,
    again: Sequence[str] = (),
    screen: RunScreen | None = None,
    option: str | None = None,
    stages: Sequence[str] | None = None,
) -> None:
    """Makes the data and runs every stage that is not finished, and shows how far it is.

    `option` is how another folder is chosen, where that is not with --set out=DIR. stages: names of those to train,
    with all that they build on; None: all.

    Raises ValueError, before the teacher is loaded, for all that `--dry-run` refuses.
    """
    from accelerate import Accelerator

    from fewstep.commands.run_checks import check_run
    from fewstep.commands.run_precision import resolve_for_all
    from fewstep.commands.run_screen import RunScreen
    from fewstep.distill.processes import check_same
    from fewstep.distill.run_folder import OPTION, RunFolder
    from fewstep.distill.stage_checks import check_order
    from fewstep.teacher.ranks import current_ranks, join_processes, num_launched, on_cpu

    folder, screen = RunFolder(plan.out, option or OPTION), screen or RunScreen()
    cpu = on_cpu(plan.device, num_launched())
    join_processes(cpu)
    # under autocast norms keep float32 weights, as they should, and torch says of each that it is not the fastest way
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
    warnings.filterwarnings("ignore", ".*all_gather_tensor. is deprecated", FutureWarning)  # which diffusers calls
    chosen = None if stages is None else plan.stages_under(stages)
    with current_ranks() as ranks:
        plan, precision_line = resolve_for_all(plan, ranks)
        if precision_line is not None:
            screen.say(precision_line)
        accelerator = Accelerator(cpu=cpu, mixed_precision="bf16" if plan.precision == "bfloat16" else "no")
        for stage in plan.stages:
            stage.share(plan.parallel.groups(accelerator.num_processes))
        # all processes must mean the same run, before one of them writes
        meant = {"recipe": plan.sha256(), "stages": str(chosen)}
        check_same(accelerator, meant, "start all of them with the same recipe and settings")
        # the first process alone looks at the disk, and the others wait for its word
        if ranks.first:
            check_run(plan, folder, again, accelerator.num_processes)
            check_order(plan, folder, chosen, folder.check(plan, again))
        ranks.wait()
        with folder.locked(ranks.first):
            _follow(plan, folder, again, chosen, accelerator, screen, ranks)
    accelerator.end_training()  # a process group that is left to the interpreter's end may abort there


def _follow(
    plan: Recipe,
    folder: RunFolder,
    again: Sequence[str],
    chosen: Sequence[str] | None,
    accelerator: Accelerator,
    screen: RunScreen,
    ranks: Ranks,
) -> None:
    """The run itself, once nothing stands in its way."""
    import torch

    from fewstep.commands.run_checks import again_line
    from fewstep.commands.run_watch import gate_metrics, samples
    from fewstep.distill.data import read_clips_of_bases
    from fewstep.distill.data_report import check_usable, other_inputs
    from fewstep.distill.estimate import relay_work
    from fewstep.distill.processes import set_process_timeout
    from fewstep.distill.size_checks import check_filled, clip_sizes
    from fewstep.distill.stages import Relay
    from fewstep.distill.tracker import NoTracker
    from fewstep.distill.trackers import open_tracker
    from fewstep.teacher.interrupts import noted_signals
    from fewstep.teacher.load_teacher import load_teacher

    device = plan.device or accelerator.device
    screen.say(f"loading the teacher {plan.teacher} ({plan.precision}, {device})")
    teacher = load_teacher(plan.teacher, getattr(torch, plan.precision), device, plan.shift)
    teacher.set_inputs(plan.embedded_guidance, plan.control_scale)
    bases = _bases(plan, teacher, screen)
    data = plan.data.folder if plan.data.kind == "dataset" else folder.data
    others = [folder.of_base(number).data for number in range(1, len(bases) + 1)]
    # the first process alone keeps the recipe and writes the log
    tracker: Tracker = NoTracker()
    if accelerator.is_main_process:
        trained_again = folder.begin(plan, again)
        screen.log_to(plan.out)
        if again:
            screen.say(again_line(again, trained_again))
        screen.log(f"fewstep {__version__}: {screen.command}, process {os.getpid()}")
        _say_text(plan, teacher, data, screen)
        tracker = open_tracker(plan)  # before the data: one that does not start costs nothing
    ranks.wait()
    # data: all processes make it, and each base model has its own
    if data == folder.data:
        sizes = clip_sizes(plan, teacher)
        for number, (name, base) in enumerate(zip((plan.teacher, *plan.bases), (teacher, *bases), strict=True)):
            make_run_data(plan, base, name, sizes, folder.of_base(number), screen, ranks)
    set_process_timeout()
    if line := plan.parallel.unused(accelerator.num_processes):
        screen.warn(line)
    if line := other_inputs(teacher, data):
        screen.warn(line)
    for made in (data, *others):
        if line := check_usable(plan.data, made):
            screen.warn(line)
        check_filled(plan, made)
    # what clips are made from, and their size, follow from the data
    clips = read_clips_of_bases(data, others, teacher, bases, plan.sizes)
    teacher.take(clips.given)
    teacher.use_size(clips.size)
    if plan.logging.prompts:
        screen.say(f"embedding the {len(plan.logging.prompts)} prompts of sample clips")
    # what only sampling needs goes before training, which needs the memory
    seen, measured = samples(teacher, plan, clips.size, clips.fps), gate_metrics(teacher, plan, ranks)
    for base in bases:
        base.free_text()
        base.free_vae()
    teacher.free_text()
    if seen is None and not measured:
        teacher.free_vae()
    # the time left is estimated from the work of the stages that are not finished
    left_out = set() if chosen is None else {stage.name for stage in plan.stages} - set(chosen)
    screen.expect(relay_work(plan, teacher.schedule, lambda name: name in left_out or folder.finished(name)))
    with noted_signals() as signals, tracker, _advice_on_memory(plan, folder, accelerator.num_processes):
        Relay(plan, folder, teacher, clips, accelerator, screen, signals, measured, seen, tracker, chosen).run()
    shown = ["--prompt ..."] if teacher.reads_text else []
    shown += [f"--given {name}=FILE" for name in teacher.given]
    screen.say(f"the student is in {plan.out}: `fewstep sample {plan.out} {' '.join(shown)} --out clip.mp4`")


@contextmanager
def _advice_on_memory(plan: Recipe, folder: RunFolder, num_processes: int) -> Iterator[None]:
    """Memory that runs out in a step becomes a sentence with the settings that take less."""
    from fewstep.distill.fitting import less_memory
    from fewstep.distill.out_of_memory import MemoryRanOut
    from fewstep.distill.settings import stage_of

    try:
        yield
    except MemoryRanOut as error:
        less = less_memory(plan, stage_of(error.stage), num_processes, folder.option)
        raise ValueError(f"{error}: {less}") from error


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

    from fewstep.teacher.base_models import join_bases
    from fewstep.teacher.load_teacher import load_teacher

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
