"""`fewstep student chain`: one table of a chain's evaluation and benchmark."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fewstep.commands.progress import Screen


def chain(
    folder: Annotated[
        Path, typer.Argument(metavar="CHAIN", help="A chain's folder, with evaluation/ and benchmark.json.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write.")] = Path("docs/results/chain.json"),
) -> None:
    """Put what `evaluate` and `benchmark` measured of a chain, distilled and not, into one table."""
    screen = Screen()
    from fewstep.commands.tables import print_table
    from fewstep.eval.caution import on_distance
    from fewstep.eval.results import results_table, write_tables
    from fewstep.eval.shapes.chain import CHAIN_COLUMNS, chain_rows
    from fewstep.teacher.files.atomic import check_writable_file
    from fewstep.teacher.shapes.judge import FEATURES

    check_writable_file(out, [".json"])
    rows = chain_rows(folder / "evaluation" / "results.json", folder / "benchmark.json")
    write_tables(out, shlex.join(["fewstep", *sys.argv[1:]]), rows, CHAIN_COLUMNS)
    print_table(results_table(rows, CHAIN_COLUMNS, str(folder)))
    num = max((row["num"] for row in rows if "num" in row), default=0)
    for sentence in on_distance("shapes-fd", num, FEATURES, 2048):
        screen.warn(sentence)
    screen.result(f"table {out} and {out.with_suffix('.md').name}")
