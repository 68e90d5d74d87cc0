"""`fewstep student`: students of finished stages, measured together with their teacher."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewstep.commands.asked import LEVELS, Computed, Device, DType, guidance_of, load, settle_dtype
from fewstep.commands.progress import Screen
from fewstep.commands.teacher import parse_steps

if TYPE_CHECKING:
    from fewstep.eval.relay_table import Entry
    from fewstep.eval.steps_table import Protocol
    from fewstep.teacher.base import Teacher

student_app = typer.Typer(help="Compare students with their teacher.", no_args_is_help=True)


@student_app.command("table")
def table(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, all of one teacher.")],
    steps: Annotated[
        str, typer.Option(help="Step counts of the teacher to compare with, separated by commas.")
    ] = "50,8,4,2,1",
    num: Annotated[int, typer.Option(min=2, help="Clips per row, one held-out prompt each.")] = 1024,
    guidance: Annotated[str, typer.Option(help=f"Classifier-free guidance of the teacher; {LEVELS}.")] = "3",
    seed: Annotated[int, typer.Option(min=0, help="Seed of prompts and noise.")] = 0,
    reference: Annotated[int, typer.Option(min=2, help="Real clips the distance is taken to.")] = 2048,
    to_teacher: Annotated[bool, typer.Option(help="Take distances to the 50-step teacher's own clips, too.")] = True,
    out: Annotated[Path, typer.Option(help="Table to write; what it already holds is not measured again.")] = Path(
        "docs/results/relay.json"
    ),
    fresh: Annotated[bool, typer.Option(help="Measure everything again.")] = False,
    dtype: Computed = "auto",
    device: Device = None,
) -> None:
    """Measure these runs' students and their teacher, on the same prompts and noise.

    A stage from which a later one of as many steps starts is an intermediate result, and left out.
    """
    screen = Screen()
    screen.say(f"measuring the students of {', '.join(map(str, runs))}")
    from fewstep.eval.relay_table import begun_dtype
    from fewstep.eval.steps_table import Protocol

    dtype = settle_dtype(screen, dtype, device, None if fresh else begun_dtype(out))
    options = ["--steps", steps, "--num", num, "--guidance", guidance, "--seed", seed, "--reference", reference]
    options += ["--to-teacher" if to_teacher else "--no-to-teacher", "--dtype", dtype, "--out", out]
    command = shlex.join(map(str, ["fewstep", "student", "table", *runs, *options]))
    protocol = Protocol(num, guidance_of(guidance), seed, reference)
    _measure(runs, parse_steps(steps), protocol, command, out, to_teacher, dtype, device, fresh, screen)


def _measure(
    runs: list[Path],
    counts: list[int],
    protocol: Protocol,
    command: str,
    out: Path,
    to_teacher: bool,
    dtype: DType,
    device: str | None,
    fresh: bool,
    screen: Screen,
) -> None:
    """Measures what `out` does not hold yet, row by row; prints the table, and draws the clips beside `out`."""
    from fewstep.commands.tables import print_table
    from fewstep.eval.caution import on_distance
    from fewstep.eval.relay_table import COLUMNS, COLUMNS_OF_RUNS, RelayTable, relay_sheet, teacher_entries
    from fewstep.eval.results import results_table
    from fewstep.student.contract import read_contract
    from fewstep.student.loading import find_stage
    from fewstep.student.outline import outline_students
    from fewstep.teacher.loading import find_device
    from fewstep.teacher.shapes.judge import FEATURES
    from fewstep.teacher.video import write_image

    find_device(device)
    named = COLUMNS if len(runs) == 1 else COLUMNS_OF_RUNS
    _, outline = outline_students([stage for run in runs for stage in _finished(run)])
    if outline.whole:
        RelayTable(outline.teacher, protocol, command, out, to_teacher, dtype, named, fresh)
    name = read_contract(find_stage(runs[0])).teacher
    screen.say(f"loading the teacher {name} ({dtype})")
    teacher = load(name, dtype, device)
    screen.say("loading the students")
    students = [entry for run in runs for entry in _students(run, teacher)]
    entries = [*teacher_entries(counts, protocol.guidance, students), *students]
    relay = RelayTable(teacher, protocol, command, out, to_teacher, dtype, named, fresh)
    with screen.pieces("clip") as progress:
        rows = relay.measure(entries, progress)
    sheet = out.with_suffix(".png")
    write_image(sheet, relay_sheet(relay, entries))
    print_table(results_table(rows, named, "students and their teacher"))
    for sentence in on_distance("shapes-fd", protocol.num, FEATURES, protocol.reference):
        screen.warn(sentence)
    screen.result(f"table {out} and {out.with_suffix('.md').name}, clips {sheet}")


def _finished(run: Path) -> list[Path]:
    """The folders of a run's finished stages. Raises ValueError when there is no run, or none is finished."""
    from fewstep.distill.recipe import kept_recipe
    from fewstep.distill.run_folder import RunFolder

    if not (run / "recipe.yaml").is_file():
        raise ValueError(f"{run} is no run (it has no recipe.yaml): pass the folder of a `fewstep run`")
    folder = RunFolder(run)
    found = [stage.name for stage in kept_recipe(run).stages if folder.finished(stage.name)]
    if not found:
        raise ValueError(f"{run} has no finished stage yet: run its recipe to the end of a stage")
    for name in found:
        if "train_seconds" not in folder.result(name):
            raise ValueError(f"{folder.stage(name) / 'result.json'} has no train_seconds: restore it")
    return [folder.stage(name) for name in found]


def _students(run: Path, teacher: Teacher) -> list[Entry]:
    """A run's finished students but intermediate ones, with the training seconds of all stages that led there."""
    from fewstep.distill.recipe import kept_recipe
    from fewstep.distill.run_folder import RunFolder
    from fewstep.eval.relay_table import Entry
    from fewstep.student.loading import load_student
    from fewstep.student.weights import weights_sha256

    recipe, folder = kept_recipe(run), RunFolder(run)

    def seconds(index: int | None) -> float:
        if index is None:
            return 0.0
        return float(folder.result(recipe.stages[index].name)["train_seconds"]) + seconds(recipe.start_of(index))

    found = []
    for index, stage in enumerate(recipe.stages):
        if folder.finished(stage.name):
            student = load_student(folder.stage(stage.name), teacher=teacher)
            version = weights_sha256(folder.stage(stage.name))
            found += [
                Entry(
                    stage.student_steps,
                    student.contract.baked_guidance,
                    student,
                    phase,
                    seconds(index),
                    stage.name,
                    str(run),
                    version,
                )
                for phase in recipe.phases_of(index)
                if phase != "start"
            ]
    return found
