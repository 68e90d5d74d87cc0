"""`fewstep shapes teacher`: a teacher of the shapes world at many and at few steps."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep.commands.options import LEVELS, guidance_of
from fewstep.commands.progress import Screen
from fewstep.teacher.limits import MOST_ITEMS

if TYPE_CHECKING:
    from fewstep.eval.shapes.steps import Protocol


def teacher_table(
    teacher: Annotated[str, typer.Argument(help="shapes, a diffusers folder or a hub id.")] = "shapes",
    steps: Annotated[str, typer.Option(help="Step counts, separated by commas.")] = "50,32,16,8,4,2,1",
    num: Annotated[
        int, typer.Option(min=2, max=MOST_ITEMS, help="Clips per step count, one held-out prompt each.")
    ] = 512,
    guidance: Annotated[str, typer.Option(help=f"Classifier-free guidance; {LEVELS}.")] = "3",
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and noise.")] = 0,
    reference: Annotated[
        int, typer.Option(min=2, max=MOST_ITEMS, help="Real clips that distances are measured to.")
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
    from fewstep.eval.shapes.steps import Protocol

    counts = parse_steps(steps)
    command = ["fewstep", "shapes", "teacher", teacher, "--steps", steps, "--num", num, "--guidance", guidance]
    command += ["--seed", seed, "--reference", reference, "--out", out]
    protocol = Protocol(num, guidance_of(guidance), seed, reference)
    measure(teacher, counts, protocol, command, out, device, screen, fresh)


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
    """Measures what `out` does not hold yet, row by row; prints the table, and draws the clips next to `out`."""
    from fewstep.commands.tables import print_table, written_tables
    from fewstep.eval.caution import on_distance
    from fewstep.eval.results import results_table
    from fewstep.eval.shapes.steps import STEPS_COLUMNS, StepsTable, steps_sheet
    from fewstep.teacher.load_teacher import load_teacher
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.outline import outline_teacher
    from fewstep.teacher.shapes.judge import FEATURES
    from fewstep.teacher.videos.writing import write_image

    find_device(device)
    outline = outline_teacher(teacher)
    # rows of another teacher or protocol are refused before weights are loaded
    if outline.whole:
        StepsTable(outline.teacher, protocol, "", out, fresh)
    screen.say(f"loading the teacher {teacher}")
    model = load_teacher(teacher, device=device)
    table = StepsTable(model, protocol, shlex.join(map(str, command)), out, fresh)
    with screen.pieces("clip") as progress:
        rows = [table.row(steps, progress) for steps in (None, *counts)]
    sheet = out.with_suffix(".png")
    # drawn again only where a row is new
    if table.measured or not sheet.exists():
        write_image(sheet, steps_sheet(model, counts, protocol))
    print_table(results_table(rows, STEPS_COLUMNS, f"{teacher}, guidance {protocol.guidance}"))
    for sentence in on_distance("shapes-fd", protocol.num, FEATURES, protocol.reference):
        screen.warn(sentence)
    screen.result(f"{written_tables(out)}, clips {sheet}")
    return rows
