"""`fewstep run` on videos and datasets: what it says of clips it cannot use, at every start, and when it stops."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewstep.teacher.dataset.manifest import read_manifest
from tests.commands.test_data import film
from tests.commands.typed import fewstep

STAGE = {"teacher_steps": 2, "student_steps": 1, "steps": 1, "batch": 1, "objective": {"kind": "progressive"}}


def recipe(folder: Path, teacher: Path, data: dict[str, Any], **settings: Any) -> Path:
    path = folder / "tiny.yaml"
    plan = {"teacher": str(teacher), "out": str(folder / "run"), "device": "cpu", "data": data, "stages": [STAGE]}
    path.write_text(yaml.safe_dump(plan | settings))
    return path


def videos(folder: Path, usable: int, broken: int) -> Path:
    """Captioned videos, of which some are cut off."""
    folder.mkdir()
    for i in range(usable):
        film(folder / f"good{i}.mp4")
    whole = (folder / "good0.mp4").read_bytes()
    for i in range(broken):
        (folder / f"bad{i}.mp4").write_bytes(whole[: len(whole) // 2])
    for path in sorted(folder.glob("*.mp4")):
        path.with_suffix(".txt").write_text("a red square")
    return folder


def test_a_run_on_few_of_its_videos_stops(tmp_path: Path, tiny_wan_folder: Path) -> None:
    path = recipe(tmp_path, tiny_wan_folder, {"kind": "videos", "folder": str(videos(tmp_path / "videos", 1, 6))})
    report = tmp_path / "run" / "data" / "skipped.jsonl"
    for _ in range(2):
        code, text = fewstep("run", path)
        assert code == 2 and f"1 of 7 clips usable, 6 skipped: {report}" in text
        assert "such as bad0.mp4: broken" in text and "data.min_usable is 0.5" in text
        assert "--set data.min_usable=0.14" in text and not (tmp_path / "run" / "stages").exists()
    assert len(report.read_text().splitlines()) == 6
    for _ in range(2):  # the same run goes on, and says it at each start
        code, text = fewstep("run", path, "--set", "data.min_usable=0.14")
        assert code == 0 and f"1 of 7 clips usable, 6 skipped: {report}" in text, text


def test_half_is_enough_and_nothing_skipped_is_not_mentioned(tmp_path: Path, tiny_wan_folder: Path) -> None:
    path = recipe(tmp_path, tiny_wan_folder, {"kind": "videos", "folder": str(videos(tmp_path / "videos", 2, 2))})
    code, text = fewstep("run", path)
    assert code == 0 and "2 of 4 clips usable, 2 skipped" in text, text
    for bad in (tmp_path / "videos").glob("bad*"):
        bad.unlink()
    code, text = fewstep("run", path, "--set", f"out={tmp_path / 'again'}")
    assert code == 0 and "clips usable" not in text, text


def test_a_dataset_says_what_was_skipped_when_it_was_made(tmp_path: Path, tiny_wan_folder: Path) -> None:
    folder = videos(tmp_path / "videos", 1, 2)
    with (tmp_path / "told.csv").open("w", newline="") as file:
        rows = [(path.name, "a red square") for path in sorted(folder.glob("*.mp4"))]
        csv.writer(file).writerows([("file", "caption"), *rows, ("gone.mp4", "x")])
    words = ["--captions", tmp_path / "told.csv", "--teacher", tiny_wan_folder, "--out", tmp_path / "made"]
    assert fewstep("data", "videos", folder, *words)[0] == 3
    path = recipe(tmp_path, tiny_wan_folder, {"kind": "dataset", "folder": str(tmp_path / "made")})
    code, text = fewstep("run", path)
    assert code == 2 and f"1 of 3 clips usable, 2 skipped: {tmp_path / 'made' / 'skipped.jsonl'}" in text
    code, text = fewstep("run", path, "--set", "data.min_usable=0")
    assert code == 0 and "1 of 3 clips usable" in text and "1 of 4 entries of told.csv name no video" in text, text


def test_entries_of_no_video_are_said_at_every_start(tmp_path: Path, tiny_wan_folder: Path) -> None:
    folder = videos(tmp_path / "videos", 1, 0)
    (folder / "GOOD1.txt").write_text("x")
    path = recipe(tmp_path, tiny_wan_folder, {"kind": "videos", "folder": str(folder)})
    for _ in range(2):
        code, text = fewstep("run", path)
        assert code == 0 and "1 of 2 .txt files name no video: GOOD1.txt" in text, text
    (line,) = (tmp_path / "run" / "data" / "skipped.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "GOOD1.txt"
    unmatched = read_manifest(tmp_path / "run" / "data").unmatched
    assert unmatched is not None and unmatched.count == 1


# tests/cases/test_data_cases.py has prompts of rollouts
@pytest.mark.parametrize("kind", [pytest.param("rollouts", marks=pytest.mark.slow), "videos", "dataset"])
def test_captions_and_prompts_beyond_the_text_encoder_are_said(
    tmp_path: Path, tiny_cogvideox_folder: Path, kind: str
) -> None:
    long = "a red ring " * 6
    if kind == "rollouts":
        (tmp_path / "prompts.txt").write_text(f"{long}\na ring\n")
        data: dict[str, Any] = {"kind": kind, "prompts": str(tmp_path / "prompts.txt"), "steps": 1}
    else:
        data = {"kind": "videos", "folder": str(videos(tmp_path / "videos", 2, 0))}
        (tmp_path / "videos" / "good0.txt").write_text(long)
        (tmp_path / "videos" / "good1.txt").write_text("a ring")
    if kind == "dataset":
        words = ["--teacher", tiny_cogvideox_folder, "--out", tmp_path / "made"]
        code, text = fewstep("data", "videos", tmp_path / "videos", *words)
        assert code == 0 and "1 of 2 prompts are longer than the text encoder's 16 tokens" in text, text
        data = {"kind": kind, "folder": str(tmp_path / "made")}
    path = recipe(tmp_path, tiny_cogvideox_folder, data, logging={"prompts": ["ring " * 16, "a zebra"]})
    code, text = fewstep("run", path)
    assert code == 0, text
    assert "2 of 4 prompts are longer than the text encoder's 16 tokens and are cut there: 'a red ring a" in text
    assert "1 of 4 prompts have words that the tokenizer does not know: 'zebra'" in text
