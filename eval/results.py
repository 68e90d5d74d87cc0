"""Measured tables on disk: docs/results/*.json, each written by the command it names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from fewstep.teacher.files.atomic import check_writable_file, whole_file
from fewstep.teacher.files.json_text import parse_json

TableRow = Mapping[str, Any]


def write_results(path: Path, command: str, rows: Sequence[TableRow]) -> None:
    """Writes {"command": ..., "rows": [...]}, a row a line, never leaving half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n    ".join(json.dumps(row) for row in rows)
    with whole_file(path) as part:
        part.write_text(f'{{\n  "command": {json.dumps(command)},\n  "rows": [\n    {lines}\n  ]\n}}\n')


def write_tables(path: Path, command: str, rows: Sequence[TableRow], columns: Mapping[str, str]) -> None:
    """`write_results`, and next to it the columns that have a figure as a table for a README."""
    write_results(path, command, rows)
    with whole_file(path.with_suffix(".md")) as part:
        part.write_text(markdown_table(rows, filled_columns(rows, columns)), "utf-8")


def read_results(path: Path) -> tuple[str, list[dict[str, Any]]]:
    """Command and rows. Raises ValueError for a file that is not such a table."""
    try:
        content = parse_json(path.read_text())
        return str(content["command"]), [dict(row.items()) for row in content["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a results table: delete it, and the command writes a new one") from error


class ResultsFile:
    """A table that grows row by row on disk: what is there is not measured again, and none is ever lost, nor what
    another command adds meanwhile.

    `shared` is what all rows have in common, such as the teacher's sha256. A `fresh` table takes the place of what
    `out` holds once it has a row. Raises ValueError when `out` holds rows of another one and is not to be replaced.
    """

    def __init__(
        self, out: Path, command: str, shared: TableRow, columns: Mapping[str, str], fresh: bool = False
    ) -> None:
        self._out, self._command, self._shared, self._columns = out, command, dict(shared), columns
        check_writable_file(out, [".json"])
        held, self._text = self._read()
        self._replaces, self.rows = fresh, [] if fresh else held
        self._check()

    def _read(self) -> tuple[list[dict[str, Any]], str]:
        """The rows on disk, and the file's text, by which another's changes are noticed."""
        if not self._out.exists():
            return [], ""
        text = self._out.read_text()  # first: what is written in between is then noticed by the next look
        return read_results(self._out)[1], text

    def _check(self) -> None:
        # rows of another teacher or protocol would not compare
        for row in self.rows:
            other = [key for key, value in self._shared.items() if row.get(key) != value]
            if other:
                raise ValueError(
                    f"{self._out} holds figures of another {', '.join(other)}: pass --fresh to measure all again, or "
                    "another --out"
                )

    def _take_others(self) -> None:
        """What another command has written here since is part of the table; a fresh one begins with its first row."""
        text = self._out.read_text() if self._out.exists() else ""
        if text not in ("", self._text) and not self._replaces:
            self.rows, self._text = self._read()
            self._check()

    def find(self, wanted: TableRow) -> dict[str, Any] | None:
        """The row that has these figures among its own."""
        return next((row for row in self.rows if wanted.items() <= row.items()), None)

    def add(
        self, row: TableRow, order: Callable[[TableRow], Any] = lambda row: 0, instead_of: TableRow | None = None
    ) -> dict[str, Any]:
        """The row with what all share; it is written at once, in this order, next to a table for a README.

        It takes the place of rows that have the figures `instead_of` among their own.
        """
        self._take_others()
        added = {**row, **self._shared}
        # the first row that goes leaves its place to the new one; sorting is stable
        replaced = [] if instead_of is None else [i for i, x in enumerate(self.rows) if instead_of.items() <= x.items()]
        kept = [other for i, other in enumerate(self.rows) if i not in replaced]
        kept.insert(replaced[0] if replaced else len(kept), added)
        self._write(sorted(kept, key=order))
        return added

    def change(self, row: TableRow, figures: TableRow) -> dict[str, Any]:
        """The row with these figures in place of its own of these names; those that are None go. It keeps its place.

        Raises ValueError when the table has no such row, as once another command has changed it.
        """
        self._take_others()
        own = {key: value for key, value in row.items() if key not in figures and key not in self._shared}
        changed = own | {key: value for key, value in figures.items() if value is not None} | dict(self._shared)
        if row not in self.rows:
            raise ValueError(
                f"{self._out} has no such row, or another command has changed it meanwhile: run this one again once "
                f"that is done ({dict(row)})"
            )
        if changed != row:
            self.rows[self.rows.index(dict(row))] = changed
            self._write(self.rows)
        return changed

    def replace(self, instead_of: TableRow, rows: Sequence[TableRow]) -> list[dict[str, Any]]:
        """Rows that take the place of all that have the figures `instead_of` among their own, at the table's end."""
        self._take_others()
        added = [{**row, **self._shared} for row in rows]
        kept = [row for row in self.rows if not instead_of.items() <= row.items()]
        if [*kept, *added] != self.rows:
            self._write([*kept, *added])
        return added

    def _write(self, rows: Sequence[TableRow]) -> None:
        self.rows = [dict(row) for row in rows]
        write_tables(self._out, self._command, self.rows, self._columns)
        self._text, self._replaces = self._out.read_text(), False


def results_table(rows: Sequence[TableRow], columns: Mapping[str, str], title: str) -> Table:
    """A terminal table of some columns, key -> heading; absent figures stay empty.

    The key of a figure with its interval is three names, as in "shapes_fd low high": 51.3 (49 to 54).
    """
    table = Table(title=escape(title))
    for heading in columns.values():
        table.add_column(escape(heading), justify="right")
    for row in rows:  # names may have brackets, which rich would take for its own marks
        table.add_row(*(escape(_cell(row, key)) for key in columns))
    return table


def markdown_table(rows: Sequence[TableRow], columns: Mapping[str, str]) -> str:
    """The same table for a README."""
    lines = [" | ".join(columns.values()), " | ".join("---:" for _ in columns)]
    lines += [" | ".join(_cell(row, key).replace("|", r"\|") for key in columns) for row in rows]
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def filled_columns(rows: Sequence[TableRow], columns: Mapping[str, str]) -> dict[str, str]:
    """Those of the columns that have a figure in some row."""
    return {key: heading for key, heading in columns.items() if any(_cell(row, key) for row in rows)}


def _cell(row: TableRow, key: str) -> str:
    value, *bounds = (_text(row.get(name)) for name in key.split())
    return f"{value} ({bounds[0]} to {bounds[1]})" if len(bounds) == 2 and all(bounds) else value


def _text(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
