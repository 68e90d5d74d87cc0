"""`make clients-table`: exports in the programs that they are for, as a table; a row for each point that was run.

Rows of programs that are not asked for this time stay as they are.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.clients import least, libraries
from tests.clients.row import Row


def main() -> None:
    """Writes the table; a row is printed as soon as it is there. Exit code 1 where one is not ok."""
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/results/clients.json"))
    parser.add_argument("--libraries", action="store_true", help="the libraries that are installed here")
    parser.add_argument(
        "--least", type=Path, metavar="PYTHON", help="a Python with the least diffusers that cards name"
    )
    parser.add_argument(
        "--comfyui", type=Path, metavar="DIR", help="a checkout of ComfyUI, whose requirements are here"
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    kept = _rows_in(arguments.out)
    rows = []
    with TemporaryDirectory() as work:
        for row in _rows(arguments, Path(work)):
            rows.append(asdict(row))
            print(json.dumps(rows[-1]), flush=True)
    redone = {(row["client"], row["version"]) for row in rows}
    table = [row for row in kept if (row["client"], row["version"]) not in redone] + rows
    arguments.out.write_text(json.dumps(table, indent=1) + "\n", "utf-8")
    if not all(row["ok"] for row in rows):
        raise SystemExit(1)


def _rows_in(table: Path) -> list[dict[str, Any]]:
    """What it holds already. Raises ValueError for a file that is no such table, before anything is run."""
    rows = json.loads(table.read_text()) if table.is_file() else []
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and {"client", "version"} <= row.keys() for row in rows
    ):
        raise ValueError(f"{table} is not a table of clients: choose another --out")
    return rows


def _rows(arguments: argparse.Namespace, work: Path) -> Iterator[Row]:
    if arguments.libraries:
        yield from libraries.rows(work / "libraries")
    if arguments.least is not None:
        yield from least.rows(arguments.least.absolute(), work / "least")
    if arguments.comfyui is not None:
        from tests.clients import comfyui

        yield from comfyui.rows(arguments.comfyui.absolute(), work / "comfyui")


main()
