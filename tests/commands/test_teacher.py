"""`fewstep teacher` on the embedded teacher, at a size that takes seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fewstep.cli import app
from fewstep.commands.teacher import parse_steps
from fewstep.eval.results import read_results
from fewstep.teacher.base import embedded_path
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.shapes.captions import example
from fewstep.teacher.shapes.world import render_scene
from fewstep.teacher.videos.decoding import ClipShape, decode_video


def test_path_is_a_pipeline_folder() -> None:
    result = CliRunner().invoke(app, ["teacher", "path"])
    assert Path(result.output.strip().replace("\n", "")) == embedded_path()
    assert (embedded_path() / "model_index.json").is_file()


def test_the_embedded_teacher_is_small_and_says_its_size() -> None:
    files = [path for path in embedded_path().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6
    assert load_teacher("shapes", device="cpu").default_size() == (17, 64, 64)


def test_the_table_is_written_row_by_row_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "teacher.json"
    short = ["teacher", "table", "shapes", "--num", "4", "--reference", "32", "--out", str(out), "--steps"]
    result = CliRunner().invoke(app, [*short, "2,1"])
    assert result.exit_code == 0, result.output
    command, rows = read_results(out)
    assert command == (
        f"fewstep teacher table shapes --steps 2,1 --num 4 --guidance 3 --seed 0 --reference 32 --out {out}"
    )
    assert [row.get("steps") for row in rows] == [None, 2, 1]
    assert all(row["low"] <= row["shapes_fd"] <= row["high"] and row["num"] == 4 for row in rows)
    assert out.with_suffix(".png").is_file()
    CliRunner().invoke(app, [*short, "1"])
    assert read_results(out) == (command, rows)  # seconds and all: nothing was measured again, nothing lost
    assert len(out.with_suffix(".md").read_text().splitlines()) == 5
    result = CliRunner().invoke(app, [*short, "1", "--seed", "1"])
    assert result.exit_code == 2 and "another seed" in result.output


def test_real_clips_are_files_that_data_reads(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["teacher", "videos", str(tmp_path / "clips"), "--num", "3"])
    assert result.exit_code == 0, result.output
    there = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}
    assert sorted(there) == [f"0000{i}.{suffix}" for i in range(3) for suffix in ("mp4", "txt")]
    scene, caption = example("train", 7, 2)
    assert (tmp_path / "clips" / "00002.txt").read_text() == caption + "\n"
    clip = decode_video(tmp_path / "clips" / "00002.mp4", ClipShape(17, 64, 64, 8.0))
    assert np.abs(clip.astype(float) - render_scene(scene)).mean() < 6  # of 255: H.264 halves the resolution of colours
    CliRunner().invoke(app, ["teacher", "videos", str(tmp_path / "clips"), "--num", "4"])
    assert there.items() < {path.name: path.stat().st_mtime_ns for path in (tmp_path / "clips").iterdir()}.items()


@pytest.mark.parametrize("text", ["", "a", "4,0", "4;2"])
def test_steps_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole numbers from 1"):
        parse_steps(text)


def test_a_teacher_of_another_world_is_told_so(tiny_wan_folder: Path, tmp_path: Path) -> None:
    arguments = ["teacher", "table", str(tiny_wan_folder), "--num", "2", "--reference", "2", "--steps", "1"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "t.json")])
    assert result.exit_code == 2 and "shapes world only" in result.output
