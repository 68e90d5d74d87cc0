"""`fewstep shapes chain`, `decoder` and `conditioning`: one table of what `evaluate` and `benchmark` wrote."""

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
    from fewstep.commands.tables import print_table, written_tables
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
    screen.result(written_tables(out))


def decoder(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A small decoder's run, with evaluation/ and benchmark*.json.")
    ],
    out: Annotated[Path, typer.Option(help="Table to write.")] = Path("docs/results/decoder.json"),
) -> None:
    """Put what `evaluate` and `benchmark` measured with a small decoder and without it into one table."""
    screen = Screen()
    from fewstep.commands.tables import print_table, written_tables
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
    screen.result(written_tables(out))


def conditioning(
    evaluations: Annotated[
        list[str],
        typer.Argument(metavar="KIND=FOLDER...", help="The kind of input, and the folder of its `fewstep evaluate`."),
    ],
    out: Annotated[Path, typer.Option(help="Table to write.")] = Path("docs/results/conditioning.json"),
) -> None:
    """Put evaluations of students that take images or controls into one table, with their teachers."""
    screen = Screen()
    from fewstep.commands.tables import print_table, written_tables
    from fewstep.eval.results import filled_columns, results_table, write_tables
    from fewstep.eval.shapes.conditioning import CONDITIONING_COLUMNS, conditioning_rows
    from fewstep.teacher.files.atomic import check_writable_file

    check_writable_file(out, [".json"])
    rows = conditioning_rows(_named_folders(evaluations))
    command = shlex.join(["fewstep", "shapes", "conditioning", *evaluations, "--out", str(out)])
    write_tables(out, command, rows, CONDITIONING_COLUMNS)
    print_table(
        results_table(rows, filled_columns(rows, CONDITIONING_COLUMNS), "students that are given more than a prompt")
    )
    screen.result(written_tables(out))


def _named_folders(words: list[str]) -> dict[str, Path]:
    """Raises ValueError for a word that is not KIND=FOLDER, or a kind that comes twice."""
    folders: dict[str, Path] = {}
    for word in words:
        kind, equals, folder = word.partition("=")
        if not (kind and equals and folder):
            raise ValueError(f"{word} must be KIND=FOLDER, as in image-to-video=runs/shapes-first-frame/evaluation")
        if kind in folders:
            raise ValueError(f"{kind} is given twice: give each evaluation its own kind")
        folders[kind] = Path(folder)
    return folders
