"""CSV read strictly: as many cells in each row as the header has, quotes that close, and the line of every mistake."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from fewstep.teacher.files.text_files import read_text

CsvRow = tuple[int, list[str]]  # the line where it begins, and its cells
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_csv(table: Path, fits: Callable[[list[str]], bool]) -> tuple[list[str], Iterator[CsvRow]]:
    """The header and the rows behind it; rows without a filled cell are left out, and a file without text has neither.

    Cells are separated by commas, semicolons or tabs: by the first of them with which the header `fits`, and by commas
    if it fits with none. Raises ValueError, with the line, for what is not text or not CSV, for a row with more or
    fewer cells than the header, and for a header that comes again.
    """
    text = read_text(table)
    delimiter = next((delimiter for delimiter in _DELIMITERS if _fits(table, text, delimiter, fits)), ",")
    rows = _rows(table, text, delimiter)
    _, header = next(rows, (1, []))
    return header, _checked(table, rows, header, _DELIMITERS[delimiter])


def _fits(table: Path, text: str, delimiter: str, fits: Callable[[list[str]], bool]) -> bool:
    try:
        return fits(next(_rows(table, text, delimiter), (1, []))[1])
    except ValueError:  # the quotes around "file";"caption" are wrong for commas
        return False


def _rows(table: Path, text: str, delimiter: str) -> Iterator[CsvRow]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1  # an unclosed quote is only noticed at the end of the file
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(_not_csv(f"{table}, line {line}", str(error))) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _checked(table: Path, rows: Iterator[CsvRow], header: list[str], separators: str) -> Iterator[CsvRow]:
    for line, cells in rows:
        place = f"{table}, line {line}"
        if cells == header:
            raise ValueError(f"{place} is the header again: delete it")
        _check_row(cells, header, separators, place)
        yield line, cells


def _not_csv(place: str, error: str) -> str:
    if "field limit" in error:
        return (
            f"{place} has a cell of more than {csv.field_size_limit():,} characters, too long for a caption: close the "
            "quote that it begins with, or shorten it"
        )
    return f"{place} is not CSV ({error}): close its quotes, and write a quote inside a caption twice"


def _check_row(cells: list[str], header: list[str], separators: str, place: str) -> None:
    """Raises ValueError unless there is one cell for each column, and none without a name is filled."""
    filled = len(header)
    while filled and not header[filled - 1].strip():  # columns that a spreadsheet left behind, empty and unnamed
        filled -= 1
    if len(cells) > len(header) or any(cell.strip() for cell in cells[filled:]):
        # an empty last cell is a separator too many, not a caption that was split at one
        remedy = f"put a caption that holds {separators} in double quotes"
        if not cells[-1].strip():
            remedy = f"delete the {separators} at its end"
        raise ValueError(f"{place} has {len(cells)} cells, and the header {filled}: {remedy}")
    if len(cells) < filled:
        count = f"{len(cells)} cell{'s' * (len(cells) != 1)}"
        raise ValueError(f"{place} has {count}, and the header {filled}: write every cell, separated by {separators}")
