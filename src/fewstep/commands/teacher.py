"""`fewstep teacher`: the embedded teacher."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep.commands.options import LEVELS, guidance_of
from fewstep.commands.progress import Screen
from fewstep.commands.survey import survey
from fewstep.teacher.limits import MOST_ITEMS

if TYPE_CHECKING:
    import torch

    from fewstep.eval.steps_table import Protocol
    from fewstep.teacher.shapes.conditioned import ConditionedRecipe
    from fewstep.teacher.shapes.recipe import TeacherRecipe
    from fewstep.teacher.shapes.world import Split

teacher_app = typer.Typer(help="Find, train and measure the embedded teacher.", no_args_is_help=True)
teacher_app.command("survey")(survey)


@teacher_app.command("path")
def path(
    name: Annotated[
        str, typer.Argument(help="shapes, shapes-image (frames), shapes-control (boxes) or shapes-frame (one frame).")
    ] = "shapes",
) -> None:
    """Print the folder of an embedded teacher, a plain diffusers pipeline."""
    from fewstep.teacher.source import EMBEDDED, embedded_path

    if name not in EMBEDDED:
        raise ValueError(f"{name} is not an embedded teacher: use {', '.join(EMBEDDED)}")
    typer.echo(embedded_path(name))


@teacher_app.command("train")
def train_teacher(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, such as recipes/shapes-teacher.yaml.")],
    only: Annotated[list[str] | None, typer.Option(help="Only this part: judge, autoencoder or denoiser.")] = None,
    embed: Annotated[bool, typer.Option(help="Make the result the embedded teacher, with its judge.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default the GPU if there is one.")] = None,
) -> None:
    """Train a teacher of the shapes world, as its recipe says; run it again to resume after a stop."""
    screen = Screen()
    screen.say(f"reading the recipe {recipe}")
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.shapes.conditioned import ConditionedRecipe
    from fewstep.teacher.shapes.recipe import TRAINED_PARTS, keep_recipe, read_any_recipe, settle_training_precision

    plan = read_any_recipe(recipe)
    parts = () if isinstance(plan, ConditionedRecipe) else TRAINED_PARTS
    unknown = set(only or ()) - set(parts)
    if unknown:
        allowed = f"use {', '.join(parts)}" if parts else "this recipe has one part"
        raise ValueError(f"--only {', '.join(sorted(unknown))} is not a part of a teacher: {allowed}")
    chosen = find_device(device)
    settled, precision_line = settle_training_precision(plan, chosen)
    keep_recipe(settled)
    screen.log_to(settled.out)
    with screen:
        if precision_line is not None:
            screen.say(precision_line)
        if isinstance(settled, ConditionedRecipe):
            made: Path | None = _train_conditioned(settled, embed, chosen, screen)
        else:
            made = _train_parts(settled, only, embed, chosen, screen)
    if made is not None:
        screen.result(f"the teacher is in {made}; commands take this folder as TEACHER")


def _train_parts(
    plan: TeacherRecipe, only: list[str] | None, embed: bool, device: torch.device, screen: Screen
) -> Path | None:
    """Judge, autoencoder and denoiser; the pipeline's folder, unless `only` asks for some of them."""
    from fewstep.teacher.interrupts import finishing_first
    from fewstep.teacher.shapes.assemble import assemble, embed_judge
    from fewstep.teacher.shapes.recipe import TRAINED_PARTS, run_part
    from fewstep.teacher.source import PIPELINE

    for part in TRAINED_PARTS:
        if not only or part in only:
            run_part(plan, part, device, screen)
    if only:
        return None
    screen.say("putting the parts together")
    with finishing_first():  # no stop leaves half a pipeline
        folder = assemble(plan.out, PIPELINE if embed else plan.out / "pipeline")
        if embed:
            embed_judge(plan.out)
    return folder


def _train_conditioned(plan: ConditionedRecipe, embed: bool, device: torch.device, screen: Screen) -> Path:
    """What a teacher of prompts learns to see; the pipeline's folder."""
    from fewstep.teacher.atomic import whole_file
    from fewstep.teacher.shapes.conditioned import run_conditioned
    from fewstep.teacher.shapes.embedded import learned_path
    from fewstep.teacher.shapes.learned import LEARNED_FILE

    folder = run_conditioned(plan, device, screen)
    if embed:
        with whole_file(learned_path(plan.learns)) as part:
            part.write_bytes((plan.out / LEARNED_FILE).read_bytes())
    return folder


@teacher_app.command("table")
def teacher_table(
    teacher: Annotated[str, typer.Argument(help="shapes, a diffusers folder or a hub id.")] = "shapes",
    steps: Annotated[str, typer.Option(help="Step counts, separated by commas.")] = "50,32,16,8,4,2,1",
    num: Annotated[
        int, typer.Option(min=2, max=MOST_ITEMS, help="Clips per step count, one held-out prompt each.")
    ] = 512,
    guidance: Annotated[str, typer.Option(help=f"Classifier-free guidance; {LEVELS}.")] = "3",
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and noise.")] = 0,
    reference: Annotated[
        int, typer.Option(min=2, max=MOST_ITEMS, help="Number of real clips that the distance compares with.")
    ] = 2048,
    out: Annotated[Path, typer.Option(help="Table to write; what it already holds is not measured again.")] = Path(
        "runs/teacher-table/teacher.json"
    ),
    fresh: Annotated[bool, typer.Option(help="Measure everything again.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default the GPU if there is one.")] = None,
) -> None:
    """Measure a teacher of the shapes world at many and at few steps."""
    screen = Screen()
    screen.say(f"measuring the teacher {teacher}")
    from fewstep.eval.steps_table import Protocol

    counts = parse_steps(steps)
    command = ["fewstep", "teacher", "table", teacher, "--steps", steps, "--num", num, "--guidance", guidance]
    command += ["--seed", seed, "--reference", reference, "--out", out]
    protocol = Protocol(num, guidance_of(guidance), seed, reference)
    measure(teacher, counts, protocol, command, out, device, screen, fresh)


@teacher_app.command("videos")
def render_videos(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the clips; existing ones are kept.")],
    num: Annotated[int, typer.Option(min=1, max=MOST_ITEMS, help="Number of clips.")] = 1536,
    held_out: Annotated[
        bool, typer.Option(help="Only held-out combinations, which the teacher was not trained on.")
    ] = False,
    given: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Another folder, for what clips can be made from: first and last frames, boxes of the object, a "
            "captions.jsonl to train with, and prompts-*.jsonl to sample and evaluate with.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all clips.")] = 7,
) -> None:
    """Render real clips of the shapes world as mp4 files, each with its caption in a .txt file of the same name."""
    screen = Screen()
    screen.say(f"rendering {num} clips")
    from fewstep.distill.taken_folders import check_free
    from fewstep.teacher.shapes.real_clips import write_clip, write_given_files, write_prompt_tables

    if given is not None and given.resolve().is_relative_to(out.resolve()):
        raise ValueError(
            f"--given {given} lies in {out}, where its boxes would be taken for clips: name another folder"
        )
    split: Split = "held-out" if held_out else "train"
    for folder in filter(None, (out, given)):
        check_free(folder, "choose another DIR")
        folder.mkdir(parents=True, exist_ok=True)
    with screen.bar("clips", "clip") as bar:
        bar.begin("clips", num)
        for index in range(num):
            write_clip(out, split, seed, index)
            if given is not None:
                write_given_files(given, split, seed, index)
            bar.update(index + 1)
    if given is not None:
        write_prompt_tables(given, split, seed, num)
    screen.result(f"{num} clips in {out}")


def parse_steps(text: str) -> list[int]:
    """'50,8' -> [50, 8]. Raises ValueError for anything but positive whole numbers."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ValueError(f"--steps is {text!r}; it must be whole numbers from 1, separated by commas, as in 50,8,4")
    return counts


def measure(
    teacher: str,
    counts: list[int],
    protocol: Protocol,
    command: list[Any],
    out: Path,
    device: str | None,
    screen: Screen,
    fresh: bool = False,
) -> list[dict[str, Any]]:
    """Measures what `out` does not hold yet, row by row; prints the table, and draws the clips beside `out`."""
    from fewstep.commands.tables import print_table
    from fewstep.eval.caution import on_distance
    from fewstep.eval.results import results_table
    from fewstep.eval.steps_table import STEPS_COLUMNS, StepsTable, steps_sheet
    from fewstep.teacher.load_teacher import load_teacher
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.outline import outline_teacher
    from fewstep.teacher.shapes.judge import FEATURES
    from fewstep.teacher.video import write_image

    find_device(device)
    outline = outline_teacher(teacher)
    if outline.whole:
        StepsTable(outline.teacher, protocol, "", out, fresh)
    screen.say(f"loading the teacher {teacher}")
    model = load_teacher(teacher, device=device)
    table = StepsTable(model, protocol, shlex.join(map(str, command)), out, fresh)
    with screen.pieces("clip") as progress:
        rows = [table.row(steps, progress) for steps in (None, *counts)]
    sheet = out.with_suffix(".png")
    if table.measured or not sheet.exists():
        write_image(sheet, steps_sheet(model, counts, protocol))
    print_table(results_table(rows, STEPS_COLUMNS, f"{teacher}, guidance {protocol.guidance}"))
    for sentence in on_distance("shapes-fd", protocol.num, FEATURES, protocol.reference):
        screen.warn(sentence)
    screen.result(f"table {out} and {out.with_suffix('.md').name}, clips {sheet}")
    return rows
