"""`fewstep teacher`: the embedded teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewstep.commands.progress import Screen
from fewstep.commands.survey import survey
from fewstep.teacher.limits import MOST_ITEMS

if TYPE_CHECKING:
    import torch

    from fewstep.teacher.shapes.conditioned import ConditionedRecipe
    from fewstep.teacher.shapes.recipe import TeacherRecipe
    from fewstep.teacher.shapes.world import Split

teacher_app = typer.Typer(
    help="Train the embedded teacher, render clips of its world, survey pipelines.", no_args_is_help=True
)
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
    from fewstep.teacher.shapes.recipe import TRAINED_PARTS, keep_recipe, read_any_recipe, resolve_training_precision

    plan = read_any_recipe(recipe)
    parts = () if isinstance(plan, ConditionedRecipe) else TRAINED_PARTS
    unknown = set(only or ()) - set(parts)
    if unknown:
        allowed = f"use {', '.join(parts)}" if parts else "this recipe has one part"
        raise ValueError(f"--only {', '.join(sorted(unknown))} is not a part of a teacher: {allowed}")
    chosen = find_device(device)
    resolved, precision_line = resolve_training_precision(plan, chosen)
    keep_recipe(resolved)
    screen.log_to(resolved.out)
    with screen:
        if precision_line is not None:
            screen.say(precision_line)
        if isinstance(resolved, ConditionedRecipe):
            made: Path | None = _train_conditioned(resolved, embed, chosen, screen)
        else:
            made = _train_parts(resolved, only, embed, chosen, screen)
    if made is not None:
        screen.result(f"the teacher is in {made}; commands take this folder as TEACHER")


def _train_parts(
    plan: TeacherRecipe, only: list[str] | None, embed: bool, device: torch.device, screen: Screen
) -> Path | None:
    """Judge, autoencoder and denoiser; the pipeline's folder, unless `only` asks for some of them."""
    from fewstep.teacher.interrupts import deferring_stop
    from fewstep.teacher.shapes.assemble import assemble, embed_judge
    from fewstep.teacher.shapes.recipe import TRAINED_PARTS, run_part
    from fewstep.teacher.source import PIPELINE

    for part in TRAINED_PARTS:
        if not only or part in only:
            run_part(plan, part, device, screen)
    if only:
        return None
    screen.say("putting the parts together")
    with deferring_stop():  # no stop leaves half a pipeline
        folder = assemble(plan.out, PIPELINE if embed else plan.out / "pipeline")
        if embed:
            embed_judge(plan.out)
    return folder


def _train_conditioned(plan: ConditionedRecipe, embed: bool, device: torch.device, screen: Screen) -> Path:
    """What a teacher of prompts learns to see; the pipeline's folder."""
    from fewstep.teacher.files.atomic import whole_file
    from fewstep.teacher.shapes.conditioned import run_conditioned
    from fewstep.teacher.shapes.embedded import learned_path
    from fewstep.teacher.shapes.learned import LEARNED_FILE

    folder = run_conditioned(plan, device, screen)
    if embed:
        with whole_file(learned_path(plan.learns)) as part:
            part.write_bytes((plan.out / LEARNED_FILE).read_bytes())
    return folder


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
