"""`fewstep teacher`: the embedded teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fewstep.eval.steps_table import Protocol

teacher_app = typer.Typer(help="Find, train and measure the embedded teacher.", no_args_is_help=True)


@teacher_app.command("path")
def path() -> None:
    """Print the folder of the embedded teacher, a plain diffusers pipeline."""
    from fewstep.teacher.source import embedded_path

    typer.echo(embedded_path())


@teacher_app.command("train")
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML recipe, such as recipes/shapes-teacher.yaml.")],
    only: Annotated[list[str] | None, typer.Option(help="Only this part: judge, autoencoder or denoiser.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; the GPU if there is one.")] = None,
) -> None:
    """Train a teacher of the shapes world from nothing; run it again to go on after a stop."""
    import torch

    from fewstep.teacher.shapes.assemble import assemble
    from fewstep.teacher.shapes.recipe import PARTS, read_recipe, run_part

    plan = read_recipe(recipe)
    unknown = set(only or ()) - set(PARTS)
    if unknown:
        raise ValueError(f"--only {', '.join(sorted(unknown))} is no part of a teacher: use {', '.join(PARTS)}")
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    for part in PARTS:
        if not only or part in only:
            run_part(plan, part, chosen)
    if not only:
        typer.echo(f"the teacher is in {assemble(plan.out, plan.out / 'pipeline')}")


@teacher_app.command("table")
def table(
    teacher: Annotated[str, typer.Argument(help="shapes, a diffusers folder or a hub id.")] = "shapes",
    steps: Annotated[str, typer.Option(help="Step counts, separated by commas.")] = "50,32,16,8,4,2,1",
    num: Annotated[int, typer.Option(min=2, help="Clips per step count, one held-out prompt each.")] = 512,
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance.")] = 5.0,
    seed: Annotated[int, typer.Option(help="Seed of prompts and noise.")] = 0,
    reference: Annotated[int, typer.Option(min=2, help="Real clips the distance is taken to.")] = 2048,
    out: Annotated[Path, typer.Option(help="Table to write; finished rows in it are kept.")] = Path(
        "runs/teacher-table/teacher.json"
    ),
) -> None:
    """Measure a teacher of the shapes world at many and at few steps."""
    from fewstep.eval.steps_table import Protocol

    command = (
        f"fewstep teacher table {teacher} --steps {steps} --num {num} --guidance {guidance:g} --seed {seed} --out {out}"
    )
    measure(teacher, parse_steps(steps), Protocol(num, guidance, seed, reference), command, out)


def parse_steps(text: str) -> list[int]:
    """'50,8' -> [50, 8]. Raises ValueError for anything but positive whole numbers."""
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise ValueError(f"--steps is {text!r}; it must be whole numbers from 1, separated by commas, as in 50,8,4")
    return counts


def measure(teacher: str, counts: list[int], protocol: Protocol, command: str, out: Path) -> list[dict[str, Any]]:
    """Measures row by row into `out`, keeping rows already there; prints the table and draws it beside `out`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fewstep.eval.results import read_results, results_table, write_results
    from fewstep.eval.steps_table import COLUMNS, real_row, reference_features, steps_sheet, teacher_row
    from fewstep.teacher.base import load_teacher
    from fewstep.teacher.video import write_image

    asked = load_teacher(teacher)
    shared = {
        "teacher_sha256": asked.sha256(),
        "num": protocol.num,
        "seed": protocol.seed,
        "reference": protocol.reference,
    }
    known = read_results(out)[1] if out.exists() else []
    rows: list[dict[str, Any]] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    ) as progress:
        bar = progress.add_task("real clips", total=protocol.num)

        def show(what: str, done: int, total: int) -> None:
            progress.update(bar, description=what, completed=done, total=total)

        reference = reference_features(protocol)
        for steps in (None, *counts):
            wanted = shared if steps is None else shared | {"steps": steps, "guidance": protocol.guidance}
            found = next((row for row in known if wanted.items() <= row.items()), None)
            if found is None and steps is None:
                found = shared | real_row(protocol, reference)
            elif found is None and steps is not None:
                found = shared | teacher_row(asked, steps, protocol, reference, show)
            rows.append(found or {})
            write_results(out, command, rows)
    write_image(out.with_suffix(".png"), steps_sheet(asked, counts, protocol))
    Console().print(results_table(rows, COLUMNS, f"{teacher}, guidance {protocol.guidance:g}"))
    typer.echo(f"table {out}, clips {out.with_suffix('.png')}")
    return rows
