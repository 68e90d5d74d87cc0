"""docs/notebook.ipynb runs from its first cell to its last, and is kept as it ran."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook.ipynb"
MINUTES = 15  # of a busy machine; of a free core it takes under one


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook: Any) -> Iterator[str]:
    """What the cells print and show."""
    for output in (output for cell in code(notebook) for output in cell.outputs):
        yield output.text if output.output_type == "stream" else str(output.data)


@pytest.fixture(scope="module")
def executed() -> Any:
    """The notebook, run in a kernel of its own."""
    return NotebookClient(read(), timeout=60 * MINUTES, kernel_name="python3").execute()


@pytest.mark.slow
def test_every_cell_runs_and_the_student_is_one_of_four_steps(executed: Any) -> None:
    text = "\n".join(shown(executed))
    assert "4 steps, guidance 3 inside" in text
    models = re.findall(r"^(teacher-8|teacher-4|student-4) +(\d+) .* ([01]\S*)$", text, re.MULTILINE)
    assert [(name, evaluations) for name, evaluations, _ in models] == [
        ("teacher-8", "16"), ("teacher-4", "8"), ("student-4", "4"),
    ]  # fmt: skip
    assert text.count("data:image/webp;base64,") == 5
    assert not any(output.get("name") == "stderr" for cell in code(executed) for output in cell.outputs)


def test_it_is_kept_as_it_ran() -> None:
    """`make notebook` keeps it so."""
    kept = read()
    assert [cell.execution_count for cell in code(kept)] == list(range(1, len(code(kept)) + 1))
    assert all(cell.outputs for cell in code(kept)[2:])
    assert "/tmp" not in "".join(shown(kept)) and NOTEBOOK.stat().st_size < 500_000
