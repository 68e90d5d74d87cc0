"""`fewstep teacher` on the embedded teacher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from fewstep.cli import app
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
