"""`fewstep benchmark --training`: how long the steps of a recipe's stages take, and where the time goes."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from accelerate import Accelerator

    from fewstep.commands.progress import Bar, Screen
    from fewstep.distill.recipe import Recipe
    from fewstep.distill.settings import Stage
    from fewstep.teacher.base import Teacher, VideoSize
    from fewstep.teacher.conditions import Conditions

Training = Annotated[
    str | None,
    typer.Option(
        "--training",
        metavar="RECIPE",
        help="Instead of models: a recipe, as a YAML file or a packaged one, whose training steps are timed. Neither "
        "data nor a run is needed. Can be used with --set, --stages, --repetitions, --warmup, --dtype, --device and "
        "--out.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="With --training: overrides a setting: stages.1.batch=8."),
]
StageNames = Annotated[
    str | None,
    typer.Option("--stages", metavar="NAME,NAME", help="With --training: only these stages; by default all."),
]

FAILED = 3  # exit code: a stage is missing from the table
FEW_ROUNDS = 5  # below, the interval of the ratio is far too narrow
STAND_IN_PROMPTS = (  # of recipes that name none of their own for sample clips
    "a red ball rolls slowly across a wooden table",
    "a small boat drifts past a lighthouse at dusk while gulls circle above it",
    "rain on a window",
    "a cat walks along a fence and jumps down",
)


@dataclass(frozen=True)
class Timing:
    """How much is measured, and where it goes; a round has the steps from one penalty to the next."""

    repetitions: int
    warmup: int
    out: Path | None = None


def time_training(recipe: str, settings: Sequence[str], stages: str | None, timing: Timing, screen: Screen) -> None:
    """Times the stages (all, or those named with commas between) of the recipe; writes and prints the table.

    Raises ValueError before the teacher is loaded for a recipe, stage, device, teacher or size that is wrong, and for
    an `out` that cannot be written. Exit code 3 when a stage failed, such as for lack of memory.
    """
    screen.say(f"reading the recipe {recipe}")
    from fewstep.distill.recipe import read_recipe
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.precision import choose_precision

    # neither data nor a run is needed to time a step
    plan = read_recipe(recipe, settings, needs_files=False)
    chosen = stages_named(plan, stages)
    out = timing.out or (plan.out if (plan.out / "recipe.yaml").is_file() else Path("runs")) / "training.json"
    _check_out(out)
    choice = choose_precision(plan.precision, find_device(plan.device))
    if choice.line is not None:
        screen.say(choice.line)
    plan = plan.model_copy(update={"precision": choice.precision})
    size = _checked_size(plan)
    with screen:
        rows, failed, trainees = _measure(plan, chosen, size, timing, out, screen)
    _show(rows, failed, trainees, out, screen)


def _check_out(out: Path) -> None:
    """Raises ValueError unless `out` can be written, ends in .json and holds nothing but such a table."""
    from fewstep.eval.results import read_results
    from fewstep.teacher.files.atomic import ELSEWHERE, check_writable_file

    check_writable_file(out, [".json"])
    if out.exists() and not all("bare_seconds" in row for row in read_results(out)[1]):
        raise ValueError(f"{out} is not a table of training steps: {ELSEWHERE}")


def stages_named(plan: Recipe, names: str | None) -> list[int]:
    """The indices of stages, named with commas between; None: all. Raises ValueError for one that is not there."""
    known = [stage.name for stage in plan.stages]
    if names is None:
        return list(range(len(known)))
    chosen = [name.strip() for name in names.split(",")]
    for name in chosen:
        if name not in known:
            raise ValueError(f"there is no stage {name!r}: the recipe has {', '.join(known)}")
    return [index for index, name in enumerate(known) if name in chosen]


def _checked_size(plan: Recipe) -> VideoSize:
    """The largest size of clips. Raises ValueError when the teacher is not there or cannot be trained so."""
    from fewstep.distill.data import read_clips
    from fewstep.distill.settings import DatasetData
    from fewstep.distill.size_checks import clip_sizes, largest_size
    from fewstep.distill.stage_checks import check_networks
    from fewstep.teacher.dataset.buckets import datasets_in
    from fewstep.teacher.dataset.manifest import MANIFEST_FILE
    from fewstep.teacher.outline import outline_teacher

    outline = outline_teacher(plan.teacher, plan.shift)
    outline.teacher.set_inputs(plan.embedded_guidance, plan.control_scale)
    outline.teacher.restrict(plan.student.only)
    check_networks(plan, outline)
    # a dataset that is there knows its sizes; else they follow from recipe and teacher
    if isinstance(plan.data, DatasetData) and (datasets_in(plan.data.folder)[0] / MANIFEST_FILE).is_file():
        sizes = read_clips(plan.data.folder, outline.teacher, plan.sizes).sizes
    else:
        sizes = clip_sizes(plan, outline.teacher)
    return largest_size(outline.teacher, sizes)


def _measure(
    plan: Recipe, chosen: Sequence[int], size: VideoSize, timing: Timing, out: Path, screen: Screen
) -> tuple[list[dict[str, Any]], dict[str, str], list[str]]:
    """The rows, written one by one, why stages are missing, and what is trained besides the student."""
    import torch
    from accelerate import Accelerator

    from fewstep.eval.latency.timing import FAILURES, one_sentence
    from fewstep.eval.results import ResultsFile
    from fewstep.teacher.load_teacher import load_teacher

    # as in training, see `follow_stages`
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")
    mixed_precision = "bf16" if plan.precision == "bfloat16" else "no"
    accelerator = Accelerator(cpu=plan.device == "cpu", mixed_precision=mixed_precision)
    device = plan.device or accelerator.device
    screen.say(f"loading the teacher {plan.teacher} ({plan.precision}, {device})")
    teacher = load_teacher(plan.teacher, getattr(torch, plan.precision), device, plan.shift)
    teacher.set_inputs(plan.embedded_guidance, plan.control_scale)
    teacher.restrict(plan.student.only)  # every batch is of one base model: the teacher's own has the times of all
    # any prompts will do: how long a step takes does not depend on what clips show
    prompts = list(map(str, plan.logging.sampled)) or list(STAND_IN_PROMPTS)
    conditions = teacher.conditions_of_any(prompts, "", size)
    teacher.free_text()  # a run has neither in memory
    teacher.free_vae()
    command = screen.command
    trainees = _trainees(plan, chosen, teacher)
    table = ResultsFile(out, command, _shared(plan, teacher, size), columns(trainees), fresh=True)
    failed = dict[str, str]()
    with screen.bar("benchmark", "round") as bar:
        bar.begin("benchmark", len(chosen) * (timing.warmup + timing.repetitions))
        for number, index in enumerate(chosen):
            stage, done = plan.stages[index], number * (timing.warmup + timing.repetitions)
            # a stage that fails is left out, and the others are timed
            try:
                table.add(_row(plan, index, teacher, conditions, size, accelerator, timing, bar))
            except FAILURES as error:
                failed[stage.name] = one_sentence(error)
            bar.update(done + timing.warmup + timing.repetitions, note=stage.name)
            # networks and optimizers of this stage go before those of the next come
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    if not table.rows:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    return table.rows, failed, trainees


def _trainees(plan: Recipe, chosen: Sequence[int], teacher: Teacher) -> list[str]:
    """What is trained in the stages besides the student."""
    held = (plan.stages[index].objective.holds(teacher.denoiser, teacher.kinds) for index in chosen)
    return list(dict.fromkeys(name for trained in held for name, own in trained.items() if own.trained))


def _row(
    plan: Recipe,
    index: int,
    teacher: Teacher,
    conditions: Conditions,
    size: VideoSize,
    accelerator: Accelerator,
    timing: Timing,
    bar: Bar,
) -> dict[str, Any]:
    from fewstep.distill.step_time import StageTime, steps_needed
    from fewstep.distill.untrained import untrained_trainer
    from fewstep.eval.latency.peak_memory import watched_peak
    from fewstep.eval.latency.timing import synchronised

    stage: Stage = plan.stages[index]
    steps = steps_needed(stage, timing.repetitions, timing.warmup)
    trainer = untrained_trainer(plan, index, teacher, conditions, size, accelerator, steps)
    measured = StageTime(trainer, synchronised(teacher.device))
    measured.run(
        timing.repetitions,
        timing.warmup,
        lambda: watched_peak(teacher.device),
        lambda: bar.update(bar.done + 1, note=stage.name),
    )
    train = {"train": plan.train_of(index), "gradient_checkpointing": plan.gradient_checkpointing}
    return measured.row(bool(plan.gradient_checkpointing)) | train


def columns(trainees: Sequence[str]) -> dict[str, str]:
    """Of the table, by their headings: seconds unless another unit is named; all but those of turns are of a step.

    trainees: what is trained in some stage, the student apart.
    """
    return {
        "stage": "stage",
        "batch": "batch",
        "seconds": "step",
        "lesson_seconds": "lesson",
        **{f"{trainee}_turn_seconds": f"{trainee} steps" for trainee in trainees},
        "student_turn_seconds": "student step",
        "supervisor_seconds": "supervisor",
        "student_seconds": "student",
        **{f"{trainee}_seconds": trainee for trainee in trainees},
        "optimizer_seconds": "optimizer",
        "other_seconds": "other",
        "bare_seconds": "bare sum",
        "ratio ratio_low ratio_high": "step / bare sum",
        "peak_gib": "GiB",
        "dtype": "dtype",
        "device": "device",
    }


def on_screen(trainees: Sequence[str]) -> dict[str, Sequence[str]]:
    """Two tables for a terminal of eighty letters: title -> columns."""
    return {
        "seconds of a training step, by part": (
            "stage", "batch", "seconds", "supervisor_seconds", "student_seconds",
            *(f"{trainee}_seconds" for trainee in trainees), "optimizer_seconds", "other_seconds",
        ),
        "by turn, and compared with the bare sum of its forwards and backwards": (
            "stage", "lesson_seconds", *(f"{trainee}_turn_seconds" for trainee in trainees), "student_turn_seconds",
            "bare_seconds", "ratio ratio_low ratio_high", "peak_gib",
        ),
    }  # fmt: skip


def _shared(plan: Recipe, teacher: Teacher, size: VideoSize) -> dict[str, Any]:
    """What stands in every row: where and in what it was measured."""
    import torch

    from fewstep.eval.latency.benchmark import device_name, versions

    return {
        "teacher": plan.teacher,
        "size": list(size),
        "dtype": plan.precision,
        "device": device_name(teacher.device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def training_notes(rows: Sequence[Mapping[str, Any]], failed: Mapping[str, str]) -> list[str]:
    """What a reader should know besides the table, in sentences."""
    sentences = []
    for row in rows:
        longer = row["split_seconds"] / row["seconds"] - 1
        sentences.append(
            f"{row['stage']}: the parts are of steps in which the device is waited for again and again; they took "
            f"{abs(longer):.0%} {'longer' if longer > 0 else 'less time'}"
        )
        if row["rounds"] < FEW_ROUNDS:
            sentences.append(
                f"{row['stage']}: the interval of {row['rounds']} rounds is too narrow: ask for --repetitions "
                f"{FEW_ROUNDS} or more"
            )
    return sentences + [f"{name} failed: {why}" for name, why in failed.items()]


def _show(
    rows: Sequence[Mapping[str, Any]], failed: Mapping[str, str], trainees: Sequence[str], out: Path, screen: Screen
) -> None:
    from rich.box import SIMPLE

    from fewstep.commands.tables import print_table, written_tables
    from fewstep.eval.results import filled_columns, results_table

    headings = columns(trainees)
    for title, keys in on_screen(trainees).items():
        table = results_table(rows, filled_columns(rows, {key: headings[key] for key in keys}), title)
        table.box, table.padding = SIMPLE, 0
        print_table(table)
    for note in training_notes(rows, failed):
        screen.result(note)
    screen.result(written_tables(out))
    if failed:
        raise typer.Exit(FAILED)
