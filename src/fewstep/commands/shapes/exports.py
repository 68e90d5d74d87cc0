"""`fewstep shapes exports`: every format of shapes students, measured in the tool that it is for."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fewstep.commands.options import DeviceOption
from fewstep.commands.progress import Screen
from fewstep.teacher.limits import MOST_ITEMS, MOST_SAMPLING_STEPS


def export_table(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs or stages, all of one shapes teacher.")],
    step_count: Annotated[
        int, typer.Option(min=1, max=MOST_SAMPLING_STEPS, help="The student of this many steps of each run.")
    ] = 4,
    num: Annotated[int, typer.Option(min=2, max=MOST_ITEMS, help="Clips per row, one held-out prompt each.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and noise.")] = 0,
    reference: Annotated[
        int, typer.Option(min=2, max=MOST_ITEMS, help="Number of real clips that the distance compares with.")
    ] = 2048,
    exports: Annotated[Path, typer.Option(help="Folder that the exports are written into.")] = Path("runs/exports"),
    out: Annotated[Path, typer.Option(help="Table to write; what it already holds is not measured again.")] = Path(
        "docs/results/export.json"
    ),
    fresh: Annotated[bool, typer.Option(help="Measure everything again.")] = False,
    device: DeviceOption = None,
) -> None:
    """Export students to every format, load them in the other tools, and measure their clips."""
    screen = Screen()
    screen.say(f"measuring the formats of {', '.join(map(str, runs))}")
    from fewstep.commands.tables import print_table, written_tables
    from fewstep.eval.caution import on_distance
    from fewstep.eval.results import results_table
    from fewstep.eval.shapes.exports import EXPORT_COLUMNS, ExportTable, entries_of, missing_formats
    from fewstep.eval.shapes.steps import Protocol
    from fewstep.student.load_student import load_student
    from fewstep.student.loading import find_stage
    from fewstep.student.outline import outline_students
    from fewstep.teacher.files.atomic import check_writable, check_writable_file
    from fewstep.teacher.guidance import Guidance
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.shapes.judge import FEATURES

    check_writable_file(out, [".json"])
    check_writable(exports)
    find_device(device)
    stages = [find_stage(run, step_count) for run in runs]
    outlined, outline = outline_students(stages)
    protocol = Protocol(num, Guidance(), seed, reference)
    # rows of another protocol are refused before the students are loaded
    if outline.whole:
        ExportTable(outlined, protocol, "", out, exports, fresh)
    for student, stage in zip(outlined, stages, strict=True):
        for why in missing_formats(student, stage):
            screen.warn(f"no row: {why}")
    screen.say("loading the students")
    first = load_student(stages[0], device=device)
    students = [first, *(load_student(stage, teacher=first.teacher) for stage in stages[1:])]
    # the command with every setting, as the table states it
    options = ["--step-count", step_count, "--num", num, "--seed", seed, "--reference", reference]
    options += ["--exports", exports, "--out", out]
    command = shlex.join(map(str, ["fewstep", "shapes", "exports", *runs, *options]))
    table = ExportTable(students, protocol, command, out, exports, fresh)
    with screen.pieces("clip") as progress:
        rows = table.measure(
            [entry for student, stage in zip(students, stages, strict=True) for entry in entries_of(student, stage)],
            progress,
            lambda why: screen.say(f"no row: {why}", "red"),
        )
    print_table(results_table(rows, EXPORT_COLUMNS, f"students of {step_count} steps in other tools"))
    for sentence in on_distance("shapes-fd", num, FEATURES, reference):
        screen.warn(sentence)
    screen.result(f"{written_tables(out)}, exports {exports}")
