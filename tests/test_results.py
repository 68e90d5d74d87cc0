"""The tables of docs/results.md, memory.md and scale.md are those of the files in docs/results/."""

from __future__ import annotations

import json
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


def test_memory_is_that_of_its_file() -> None:
    """Of the adversarial stage, in docs/memory.md and docs/scale.md."""
    rows = json.loads((DOCS / "results" / "memory.json").read_text("utf-8"))["rows"]
    gib = {
        (row["model"], row["train"], row["size"], row["layout"]): f"{row['predicted_gib']:.3g}"
        for row in rows
        if row["objective"] == "adversarial"
    }
    one, eight = "1 process", "fsdp, 8 processes"
    header = ("model", "LoRA 480p", "LoRA 720p", "full 480p", "full 720p")
    shown = [rows for columns, rows in _tables((DOCS / "memory.md").read_text("utf-8")) if columns == header]
    for layout, lines in zip((one, eight), shown, strict=True):
        for model, *cells in lines:
            sizes = [(model, train, size, layout) for train in ("lora", "full") for size in ("480p", "720p")]
            assert cells == [gib[size] for size in sizes], model
    header = ("model", "train", "`ddp`", "`fsdp`, 8 GPUs", "so")
    (lines,) = [rows for columns, rows in _tables((DOCS / "scale.md").read_text("utf-8")) if columns == header]
    for model, train, *cells, _ in lines:
        assert cells == [gib[model.partition(",")[0], train, "480p", layout] for layout in (one, eight)], model
