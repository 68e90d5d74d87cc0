"""`fewstep student decoder`: one table of a small decoder's evaluation and benchmarks."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fewstep.commands.progress import Screen


def decoder(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A small decoder's run, with evaluation/ and benchmark*.json.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write.")] = Path("docs/results/decoder.json"),
) -> None:
    """Put what `evaluate` and `benchmark` measured with a small decoder and without it into one table."""
    screen = Screen()
    from fewstep.commands.tables import print_table
    from fewstep.eval.results import results_table, write_tables
    from fewstep.eval.shapes.decoder import DECODER_COLUMNS, decoder_rows
    from fewstep.student.decoder.files import find_decoder
    from fewstep.teacher.files.atomic import check_writable_file

    check_writable_file(out, [".json"])
    benchmarks = sorted(run.glob("benchmark*.json"))
    if not benchmarks:
        raise ValueError(f"{run} has no benchmark*.json: time the models with `fewstep benchmark --out` in this folder")
    rows = decoder_rows(run / "evaluation" / "results.json", benchmarks, find_decoder(run) / "result.json")
    write_tables(out, shlex.join(["fewstep", *sys.argv[1:]]), rows, DECODER_COLUMNS)
    print_table(results_table(rows, DECODER_COLUMNS, str(run)))
    screen.result(f"table {out} and {out.with_suffix('.md').name}")
