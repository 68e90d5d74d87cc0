"""Tables on standard output or error: as wide as a terminal is, and in files as wide as they are, without colours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

_UNLIMITED = 10_000  # letters; a table takes what it needs


def print_table(table: Table, stderr: bool = False) -> None:
    """Prints a table; rich would squeeze it to 80 letters where no terminal says how wide it is."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        Console(file=stream).print(table)
    else:
        Console(file=stream, width=_UNLIMITED, force_terminal=False, color_system=None).print(table)
    stream.flush()


def written_tables(out: Path) -> str:
    """How a command names the JSON table that it wrote, and the one for a README next to it."""
    return f"table {out} and {out.with_suffix('.md').name}"
