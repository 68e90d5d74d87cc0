"""`fewstep teacher survey`: which pipelines can be sampled, distilled and exported, found by doing it."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fewstep.commands.options import DeviceOption
from fewstep.commands.progress import Screen

SURVEY_COLUMNS = {
    "folder": "folder",
    "pipeline": "pipeline",
    "sample": "sample",
    "run": "run",
    "export": "export",
    "exact": "exact",
    "sentence": "what stands in the way",
}


def survey(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="Folders of tiny pipelines.")],
    out: Annotated[Path, typer.Option(help="Table to write.")] = Path("runs/survey/teachers.json"),
    device: DeviceOption = "cpu",
) -> None:
    """Sample, distil for two training steps, and export each of these pipelines, at the smallest size that it makes.

    A pipeline that the dry run refuses has the error message in its row.
    """
    screen = Screen()
    screen.say(f"looking at {len(folders)} pipelines")
    from fewstep.commands.survey_tries import tried
    from fewstep.commands.tables import print_table, written_tables
    from fewstep.eval.results import results_table, write_tables
    from fewstep.teacher.files.atomic import check_writable_file
    from fewstep.teacher.loading import find_device

    check_writable_file(out, [".json"])
    find_device(device)
    names = [folder.resolve().name for folder in folders]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two folders are called {twice[0]}, and rows are distinguished by names: rename one")
    rows = []
    with screen.pieces("pipeline") as progress, tempfile.TemporaryDirectory() as work:
        for i, (name, folder) in enumerate(zip(names, folders, strict=True)):
            rows.append({"folder": name, **tried(folder, Path(work) / name, device)})
            progress("pipelines", i + 1, len(folders))
    command = shlex.join(["fewstep", "teacher", "survey", *map(str, folders), "--out", str(out)])
    write_tables(out, command, rows, SURVEY_COLUMNS)
    print_table(results_table(rows, SURVEY_COLUMNS, "pipelines"))
    screen.result(written_tables(out))
