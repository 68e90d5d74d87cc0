"""docs/results.md: its tables are those that were measured, whole or with fewer columns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]


def _tables(markdown: str) -> list[Table]:
    """(header, rows) of each."""
    blocks = re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE)
    tables = [[_cells(line) for line in block.splitlines()] for block in blocks]
    return [(lines[0], lines[2:]) for lines in tables]


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


@pytest.mark.parametrize("name", ["teacher", "relay", "export"])
def test_a_table_has_the_rows_of_its_file(name: str) -> None:
    ((columns, measured),) = _tables((DOCS / "results" / f"{name}.md").read_text("utf-8"))
    of_these_columns = [
        (header, rows)
        for header, rows in _tables((DOCS / "results.md").read_text("utf-8"))
        if set(header) <= set(columns)
    ]
    shown = [rows for header, rows in of_these_columns if rows == _only(measured, columns, header)]
    assert len(shown) == 1, f"no table of results.md has the rows of results/{name}.md"


def _only(rows: list[tuple[str, ...]], columns: tuple[str, ...], header: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [tuple(row[columns.index(column)] for column in header) for row in rows]
