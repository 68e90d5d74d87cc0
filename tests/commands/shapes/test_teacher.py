"""`fewstep shapes teacher` on the embedded teacher, at a size that takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.commands.shapes.teacher import parse_steps
from fewstep.eval.results import read_results


def test_the_table_is_written_row_by_row_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "teacher.json"
    short = ["shapes", "teacher", "shapes", "--num", "4", "--reference", "32", "--out", str(out), "--steps"]
    result = CliRunner().invoke(app, [*short, "2,1"])
    assert result.exit_code == 0, result.output
    command, rows = read_results(out)
    assert command == (
        f"fewstep shapes teacher shapes --steps 2,1 --num 4 --guidance 3 --seed 0 --reference 32 --out {out}"
    )
    assert [row.get("steps") for row in rows] == [None, 2, 1]
    assert all(row["low"] <= row["shapes_fd"] <= row["high"] and row["num"] == 4 for row in rows)
    assert out.with_suffix(".png").is_file()
    CliRunner().invoke(app, [*short, "1"])
    assert read_results(out) == (command, rows)  # seconds and all: nothing was measured again, nothing lost
    assert len(out.with_suffix(".md").read_text().splitlines()) == 5
    result = CliRunner().invoke(app, [*short, "1", "--seed", "1"])
    assert result.exit_code == 2 and "another seed" in result.output


@pytest.mark.parametrize("text", ["", "a", "4,0", "4;2"])
def test_steps_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole numbers from 1"):
        parse_steps(text)


def test_a_teacher_of_another_world_is_told_so(tiny_wan_folder: Path, tmp_path: Path) -> None:
    arguments = ["shapes", "teacher", str(tiny_wan_folder), "--num", "2", "--reference", "2", "--steps", "1"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "t.json")])
    assert result.exit_code == 2 and "shapes world only" in result.output
