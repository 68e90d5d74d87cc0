"""`fewstep shapes students`: students of finished stages, measured together with their teacher."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewstep.commands.options import (
    LEVELS,
    DeviceOption,
    DType,
    DTypeOption,
    guidance_of,
    load_named_teacher,
    resolve_dtype,
)
from fewstep.commands.progress import Screen
from fewstep.commands.shapes.teacher import parse_steps
from fewstep.commands.stage_names import parse_stages
from fewstep.teacher.limits import MOST_ITEMS

if TYPE_CHECKING:
    from fewstep.eval.shapes.relay import RelayTable
    from fewstep.eval.shapes.steps import Protocol
    from fewstep.teacher.base import Teacher


def student_table(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, all of one teacher.")],
    steps: Annotated[
        str, typer.Option(help="Step counts of the teacher to compare with, separated by commas.")
    ] = "50,8,4,2,1",
    stages: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Stages to measure, which may be intermediate ones; by default all that are not."
        ),
    ] = None,
    num: Annotated[int, typer.Option(min=2, max=MOST_ITEMS, help="Clips per row, one held-out prompt each.")] = 1024,
    guidance: Annotated[str, typer.Option(help=f"Classifier-free guidance of the teacher; {LEVELS}.")] = "3",
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and noise.")] = 0,
    reference: Annotated[
        int, typer.Option(min=2, max=MOST_ITEMS, help="Number of real clips that the distance compares with.")
    ] = 2048,
    to_teacher: Annotated[bool, typer.Option(help="Measure distances to the 50-step teacher's own clips, too.")] = True,
    diversity: Annotated[
        int,
        typer.Option(
            min=0, help="Number of prompts, with 8 clips each, that diversity is measured on; 0 leaves it out."
        ),
    ] = 16,
    out: Annotated[Path, typer.Option(help="Table to write; what it already holds is not measured again.")] = Path(
        "docs/results/relay.json"
    ),
    fresh: Annotated[bool, typer.Option(help="Measure everything again.")] = False,
    dtype: DTypeOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Measure these runs' students and their teacher, on the same prompts and noise.

    A stage that a later stage of the same step count starts from is an intermediate result, and left out unless
    --stages names it. A student's delta is to regression alone (mse) at the same step count; runs of one recipe with
    different seeds get means.
    """
    screen = Screen()
    screen.say(f"measuring the students of {', '.join(map(str, runs))}")
    from fewstep.eval.shapes.relay import COLUMNS_OF_RUNS, RELAY_COLUMNS, RelayTable, recorded_table_dtype
    from fewstep.eval.shapes.steps import Protocol

    # a table has one precision, that of the rows it holds
    dtype = resolve_dtype(screen, dtype, device, None if fresh else recorded_table_dtype(out))
    options = ["--steps", steps, "--num", num, "--guidance", guidance, "--seed", seed, "--reference", reference]
    options += ["--stages", stages] if stages is not None else []
    options += ["--to-teacher" if to_teacher else "--no-to-teacher", "--diversity", diversity]
    options += ["--dtype", dtype, "--out", out]
    command = shlex.join(map(str, ["fewstep", "shapes", "students", *runs, *options]))
    protocol = Protocol(num, guidance_of(guidance), seed, reference)
    open_table = partial(
        RelayTable,
        protocol=protocol,
        command=command,
        out=out,
        to_teacher=to_teacher,
        dtype=dtype,
        columns=RELAY_COLUMNS if len(runs) == 1 else COLUMNS_OF_RUNS,
        fresh=fresh,
        diverse=diversity,
    )
    _measure(runs, parse_steps(steps), parse_stages(stages), open_table, protocol, out, dtype, device, screen)


def _measure(
    runs: list[Path],
    counts: list[int],
    names: list[str] | None,
    open_table: Callable[[Teacher], RelayTable],
    protocol: Protocol,
    out: Path,
    dtype: DType,
    device: str | None,
    screen: Screen,
) -> None:
    """Measures what `out` does not hold yet, row by row; prints the table, and draws the clips next to `out`."""
    from fewstep.commands.shapes.entries import chosen_stages, students_of
    from fewstep.commands.tables import written_tables
    from fewstep.eval.shapes.relay import relay_sheet
    from fewstep.eval.shapes.relay_entry import teacher_entries
    from fewstep.student.contract import read_contract
    from fewstep.student.outline import outline_students
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.videos.writing import write_image

    find_device(device)
    chosen = chosen_stages(runs, names)
    folders = [folder for stages in chosen.values() for folder in stages]
    _, outline = outline_students(folders)
    # rows of another teacher or protocol are refused before weights are loaded
    if outline.whole:
        open_table(outline.teacher)
    name = read_contract(folders[0]).teacher
    screen.say(f"loading the teacher {name} ({dtype})")
    teacher = load_named_teacher(name, dtype, device)
    shifts = {read_contract(folder).shift for folder in folders}
    if shifts != {teacher.schedule.shift}:
        raise ValueError(
            f"students have a shift of {', '.join(f'{shift:g}' for shift in sorted(shifts))}, and their teacher's rows "
            f"would have its own, {teacher.schedule.shift:g}: measure them with `fewstep evaluate`"
        )
    screen.say("loading the students")
    students = [entry for run, stages in chosen.items() for entry in students_of(run, stages, teacher, names is None)]
    entries = [*teacher_entries(counts, protocol.guidance, students), *students]
    relay = open_table(teacher)
    with screen.pieces("clip") as progress:
        rows = relay.measure(entries, progress)
    sheet = out.with_suffix(".png")
    write_image(sheet, relay_sheet(relay, entries))
    _show(rows, relay, screen)
    screen.result(f"{written_tables(out)}, clips {sheet}")


def _show(rows: list[dict[str, Any]], relay: RelayTable, screen: Screen) -> None:
    from fewstep.commands.tables import print_table
    from fewstep.eval.caution import on_distance
    from fewstep.eval.results import filled_columns, results_table
    from fewstep.teacher.shapes.judge import FEATURES

    print_table(results_table(rows, filled_columns(rows, relay.columns), "students and their teacher"))
    for sentence in relay.notes + on_distance("shapes-fd", relay.protocol.num, FEATURES, relay.protocol.reference):
        screen.warn(sentence)
