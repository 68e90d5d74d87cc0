"""Results tables survive a round trip and refuse what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.commands.tables import print_table
from fewstep.eval.results import (
    ResultsFile,
    filled_columns,
    markdown_table,
    read_results,
    results_table,
    write_results,
)

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


def test_intervals_stand_beside_their_figure_and_no_number_has_an_exponent() -> None:
    rows: list[dict[str, object]] = [
        {"fd": 1206.2, "low": 1181.91, "high": 1230.7, "delta": -1.234},
        {"fd": 51.33},
    ]
    columns = {"fd low high": "fd", "delta delta_low delta_high": "delta", "motion": "motion"}
    assert filled_columns(rows, columns) == {"fd low high": "fd", "delta delta_low delta_high": "delta"}
    lines = markdown_table(rows, filled_columns(rows, columns)).splitlines()
    assert lines[2:] == ["| 1206 (1182 to 1231) | -1.23 |", "| 51.3 |  |"]


def opened(path: Path, fresh: bool = False) -> ResultsFile:
    return ResultsFile(path, "", {"seed": 0}, {"model": "model"}, fresh)


def test_two_commands_with_one_table_keep_each_others_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    one, other = opened(path), opened(path)
    one.add({"model": "one"})
    other.add({"model": "two"})
    row = one.add({"model": "three"})
    assert [row["model"] for row in read_results(path)[1]] == ["one", "two", "three"]
    changed = other.change(row, {"fd": 1.0})
    with pytest.raises(ValueError, match="another command has changed it meanwhile"):
        one.change(row, {"fd": 2.0})
    assert one.change(changed, {"fd": 3.0})["fd"] == 3.0 and len(read_results(path)[1]) == 3


def test_a_fresh_table_takes_the_place_of_what_is_there_and_no_longer_once_it_has_a_row(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    opened(path).add({"model": "old"})
    fresh, other = opened(path, fresh=True), opened(path)
    other.add({"model": "older"})
    fresh.add({"model": "new"})
    other.add({"model": "newer"})
    fresh.add({"model": "newest"})
    assert [row["model"] for row in read_results(path)[1]] == ["new", "newer", "newest"]


def test_rows_change_in_place_and_are_replaced(tmp_path: Path) -> None:
    table = ResultsFile(tmp_path / "t.json", "", {"seed": 0}, {"model": "model"})
    for name in ("one", "two", "mean"):
        table.add({"model": name, "figure": 1})
    assert table.change(table.rows[0], {"figure": None, "delta": 2}) == {"model": "one", "delta": 2, "seed": 0}
    table.add({"model": "one", "figure": 3}, instead_of={"model": "one"})
    assert [row["model"] for row in table.rows] == ["one", "two", "mean"]
    assert table.replace({"model": "mean"}, [{"model": "mean", "figure": 5}])[0]["seed"] == 0
    assert read_results(tmp_path / "t.json")[1] == table.rows and table.rows[2]["figure"] == 5
    with pytest.raises(ValueError, match="no such row"):
        table.change({"model": "another"}, {"figure": 1})


@pytest.mark.parametrize("name", ["runs/[old]a", "runs/[/x]", "a|b"])
def test_names_are_shown_as_they_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_table(results_table([{"model": name, "steps": 4}], {"model": "model", "steps": "steps"}, f"of {name}"))
    assert name in capsys.readouterr().out.splitlines()[-2]
    row = markdown_table([{"model": name, "steps": 4}], {"model": "model", "steps": "steps"}).splitlines()[-1]
    assert row == f"| {name.replace('|', chr(92) + '|')} | 4 |"
