"""Results tables survive a round trip and refuse what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.eval.results import markdown_table, read_results, write_results

ROWS = [{"model": "real", "shapes_fd": 1.2345}, {"model": "teacher", "steps": 4, "shapes_fd": 12.0, "num": 8}]


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.json"
    write_results(path, "fewstep demo", ROWS)
    assert read_results(path) == ("fewstep demo", ROWS)
    assert [p.name for p in path.parent.iterdir()] == ["table.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"command": "", "rows": [1]}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a results table"):
        read_results(path)


def test_markdown_leaves_absent_figures_empty() -> None:
    table = markdown_table(ROWS, {"model": "model", "steps": "steps", "shapes_fd": "shapes-fd"})
    assert table.splitlines() == [
        "| model | steps | shapes-fd |",
        "| ---: | ---: | ---: |",
        "| real |  | 1.23 |",
        "| teacher | 4 | 12 |",
    ]
