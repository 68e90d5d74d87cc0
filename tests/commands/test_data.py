"""`fewstep data`: folders of real and broken videos, and rollouts, to datasets on disk and back."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.teacher.base import Teacher
from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.dataset.reader import conditions_of, read_unconditional
from fewstep.teacher.dataset.sources import item_seed
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.rollout import rollout
from fewstep.teacher.videos.decoding import ClipShape, decode_video
from fewstep.teacher.videos.writing import write_video
from tests.commands.typed import fewstep
from tests.forked import Scripts
from tests.teacher.stored import stored_rows

SIZES = [(64, 96), (48, 48), (32, 80), (90, 50)]
RATES = [24.0, 8.0, 30000 / 1001, 12.5, 60.0]


def run(*arguments: object) -> tuple[int, str]:
    return fewstep("data", *arguments)


def film(path: Path, seconds: float = 1.5, rate: float = 24, size: tuple[int, int] = (48, 64)) -> Path:
    """A real H.264 or GIF file of a square that moves over a tinted ground, other for each name."""
    rng = np.random.default_rng(list(path.name.encode()))
    frames = np.empty((max(1, round(seconds * rate)), *size, 3), np.uint8)
    frames[:] = rng.integers(40, 200, 3)
    for i, frame in enumerate(frames):
        left = i * (size[1] - 12) // len(frames)
        frame[8:20, left : left + 12] = rng.integers(0, 256, 3)
    write_video(path, frames, rate)
    return path


def good_videos(folder: Path, num: int = 10) -> dict[str, str]:
    """File name -> caption of H.264 files of many sizes and rates, one of them in a sub-folder."""
    (folder / "more").mkdir(parents=True)
    names = [f"clip{i:02d}.mp4" for i in range(num - 1)] + ["more/deep.mp4"]
    for i, name in enumerate(names):
        film(folder / name, 1.2 + 0.1 * (i % 4), RATES[i % len(RATES)], SIZES[i % len(SIZES)])
    return {name: f"a red square moves, take {i}" for i, name in enumerate(names)}


def broken_videos(folder: Path) -> dict[str, str]:
    """File name -> a word of the reason, for twenty files that cannot become clips."""
    whole = film(folder / "whole.tmp.mp4", rate=24).read_bytes()
    (folder / "whole.tmp.mp4").unlink()
    rng = np.random.default_rng(0)
    contents = {
        "x-empty.mp4": (b"", "empty"),
        "x-empty.webm": (b"", "empty"),
        "x-empty.gif": (b"", "empty"),
        "x-head.mp4": (whole[:64], "broken"),
        "x-quarter.mp4": (whole[: len(whole) // 4], "broken"),
        "x-half.mp4": (whole[: len(whole) // 2], "broken"),
        "x-tail.mp4": (whole[len(whole) // 2 :], "broken"),
        "x-text.mp4": (b"these are words and no film\n" * 99, "broken"),
        "x-page.webm": (b"<!doctype html><title>404</title>" * 9, "broken"),
        "x-noise.mp4": (rng.bytes(4000), "broken"),
        "x-noise.gif": (rng.bytes(4000), "broken"),
        "x-zeros.mkv": (bytes(4000), "broken"),
        "x-gif.gif": (b"GIF89a" + bytes(10), "no frames|broken|no images|too short"),
        "x-document.pdf": (b"%PDF-1.7", "not a video: its suffix is .pdf"),
        "x-nosuffix": (whole, "not a video: its suffix is missing"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    for name, kind in (("x-png.mp4", "PNG"), ("x-jpeg.mp4", "JPEG")):
        with (folder / name).open("wb") as file:
            Image.new("RGB", (64, 64), "red").save(file, kind)
    film(folder / "x-short.mp4", 0.5)
    film(folder / "x-one.gif", 0.1, 10)
    film(folder / "x-untold.mp4")
    return {name: reason for name, (_, reason) in contents.items()} | {
        "x-png.mp4": "not a video: the content is",
        "x-jpeg.mp4": "not a video: the content is",
        "x-short.mp4": "too short: 0.50 s",
        "x-one.gif": "too short",
        "x-untold.mp4": "no caption",
    }


def write_csv(path: Path, captions: dict[str, str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), *captions.items()])
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, str], dict[str, str]]:
    """A folder of good and broken videos, its captions file, the good ones, and the broken ones' reasons."""
    folder = tmp_path_factory.mktemp("mixed")
    good, broken = good_videos(folder / "videos"), broken_videos(folder / "videos")
    facts = good | {name: "never seen" for name in broken if name not in ("x-untold.mp4", "x-head.mp4")}
    return folder / "videos", write_csv(folder / "captions.csv", facts), good, broken


def shards(folder: Path) -> dict[str, str]:
    paths = [*sorted(folder.glob("*.parquet")), folder / "manifest.json", folder / "skipped.jsonl"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()}


def rows_of(folder: Path, teacher: Teacher) -> list[dict[str, Any]]:
    return stored_rows(folder, teacher.sha256())


Mixed = tuple[Path, Path, dict[str, str], dict[str, str]]


def test_videos_are_encoded_and_broken_ones_named(
    tmp_path: Path, mixed: Mixed, tiny_wan_folder: Path, tiny_teacher: Teacher
) -> None:
    videos, captions, good, broken = mixed
    assert len(broken) == 20
    out = tmp_path / "out"
    words = ["--captions", captions, "--teacher", tiny_wan_folder, "--batch", 4]
    code, text = run("videos", videos, *words, "--out", out)
    assert code == 3, text
    assert "20 skipped" in text and "10 clips in 1 shards" in text
    skipped = {line["file"]: line["reason"] for line in map(json.loads, (out / "skipped.jsonl").open())}
    assert skipped.keys() == broken.keys()
    for name, reason in broken.items():
        assert re.search(reason, skipped[name]), (name, skipped[name])
        assert name in text
    rows = rows_of(out, tiny_teacher)
    assert {row["id"]: row["caption"] for row in rows} == good
    clip = decode_video(videos / rows[3]["id"], ClipShape(9, 16, 16, 8))
    video = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    torch.testing.assert_close(rows[3]["latents"], tiny_teacher.encode(video)[0].half(), atol=2e-3, rtol=0)


KILLED = """
import sys, time
from fewstep import cli
from fewstep.teacher.dataset import sources as dataset_sources
decode = dataset_sources.decode_video
def slowly(*arguments):
    time.sleep(0.05)
    return decode(*arguments)
dataset_sources.decode_video = slowly
cli.main()
"""


def test_a_killed_run_ends_with_the_same_shards(tmp_path: Path, mixed: Mixed, tiny_wan_folder: Path) -> None:
    videos, captions, _, _ = mixed
    words = ["videos", videos, "--captions", captions, "--teacher", tiny_wan_folder, "--rows-per-shard", 3]
    words += ["--dtype", "float32"]  # of other processes, too
    assert run(*words, "--out", tmp_path / "whole")[0] == 3
    killed = tmp_path / "killed"
    (tmp_path / "killed.py").write_text(KILLED)
    process = Scripts(1, tmp_path / "killed.py", "data", *words, "--out", killed, logs=tmp_path)
    deadline = time.monotonic() + 60
    while not (killed / "shard-00001.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.ends()[0][0] == -signal.SIGKILL
    finished = {path.name: path.stat().st_mtime_ns for path in killed.glob("shard-*.parquet")}
    assert 2 <= len(finished) < 10
    recorded = len(read_manifest(killed).shards)
    assert run(*words, "--out", killed)[0] == 3
    assert shards(killed) == shards(tmp_path / "whole")
    for name in sorted(finished)[:recorded]:
        assert (killed / name).stat().st_mtime_ns == finished[name], "a finished shard was made again"


def test_captions_from_sidecars_and_jsonl_agree(tmp_path: Path, tiny_wan_folder: Path) -> None:
    videos = tmp_path / "videos"
    good = good_videos(videos, 3)
    for name, caption in good.items():
        (videos / name).with_suffix(".txt").write_text(f"  {caption}\n")
    table = tmp_path / "told.jsonl"
    table.write_text("".join(json.dumps({"video": n, "text": c}) + "\n" for n, c in good.items()))
    words = ["videos", videos, "--teacher", tiny_wan_folder]
    assert run(*words, "--out", tmp_path / "a")[0] == 0
    assert run(*words, "--captions", table, "--out", tmp_path / "b")[0] == 0
    assert shards(tmp_path / "a") == shards(tmp_path / "b")
    assert not (tmp_path / "a" / "skipped.jsonl").exists()


def test_a_dataset_inside_the_videos_folder_is_not_its_own_source(tmp_path: Path, tiny_wan_folder: Path) -> None:
    film(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("a red square")
    words = ["videos", tmp_path, "--teacher", tiny_wan_folder, "--out", tmp_path / "data"]
    assert [run(*words)[0], run(*words)[0]] == [0, 0]
    film(tmp_path / "b.mp4")
    code, text = run(*words)
    assert (
        code == 2
        and "was begun with other videos: b.mp4 was added; undo that to resume, or choose another --out" in text
    )


def test_rollouts_are_the_teachers_samples(tmp_path: Path, tiny_wan_folder: Path, tiny_teacher: Teacher) -> None:
    (tmp_path / "prompts.txt").write_text("a red square rises\n\na blue ring\n")
    words = ["--teacher", tiny_wan_folder, "--steps", 3, "--guidance", 4, "--count", 2, "--store", "float32"]
    out = tmp_path / "out"
    code, text = run("rollouts", tmp_path / "prompts.txt", *words, "--keep-noise", "--out", out)
    assert code == 0, text
    rows = rows_of(out, tiny_teacher)
    assert [row["caption"] for row in rows] == ["a red square rises", "a blue ring"] * 2
    assert [row["seed"] for row in rows] == [item_seed(0, i) for i in range(4)]
    for row in rows:
        noise = tiny_teacher.noise([row["seed"]], row["latents"].shape)
        assert torch.equal(row["noise"], noise[0])
        conditions = tiny_teacher.conditions([row["caption"]])
        sampled = rollout(tiny_teacher, noise, conditions, tiny_teacher.schedule.grid(3), 4.0)
        torch.testing.assert_close(row["latents"], sampled[0])
    assert len({row["latents"].sum().item() for row in rows}) == 4
    schedule = read_manifest(out).schedule
    assert (schedule.kind, schedule.shift, schedule.steps, schedule.guidance) == ("flow", 5.0, 3, Guidance(4))
    code, text = run("rollouts", tmp_path / "prompts.txt", *words, "--seed", 1, "--keep-noise", "--out", out)
    assert code == 2 and "seed 0, not 1" in text


def test_stored_conditions_are_the_teachers(tmp_path: Path, tiny_wan_folder: Path, tiny_teacher: Teacher) -> None:
    prompts = ["a red square", "a small blue ring circles over a dark striped ground", "a ring"]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    words = ["--teacher", tiny_wan_folder, "--store", "float32", "--negative-prompt", "dim", "--batch", 2, "--steps", 1]
    assert run("rollouts", tmp_path / "prompts.txt", *words, "--out", tmp_path / "out")[0] == 0
    rows = rows_of(tmp_path / "out", tiny_teacher)
    assert len({len(row["embeddings"]) for row in rows}) == 3
    stored = conditions_of(rows, read_unconditional(tmp_path / "out"))
    made = tiny_teacher.conditions(prompts, "dim")
    assert stored.negative is not None and made.negative is not None
    torch.testing.assert_close(stored.positive["embeddings"], made.positive["embeddings"])
    torch.testing.assert_close(stored.negative["embeddings"], made.negative["embeddings"])


def test_another_store_is_told_in_plain_words(tmp_path: Path, tiny_wan_folder: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red square\n")
    words = [
        "rollouts",
        tmp_path / "prompts.txt",
        "--steps",
        1,
        "--teacher",
        tiny_wan_folder,
        "--out",
        tmp_path / "out",
    ]
    assert run(*words)[0] == 0
    code, text = run(*words, "--store", "float32")
    assert code == 2
    assert "begun with stored embeddings float16 (tokens, 128), not float32 (tokens, 128)" in text


def test_an_unwritable_out_is_named_before_the_teacher_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompts.txt").write_text("a red square\n")
    monkeypatch.setattr(os, "access", lambda _, mode: not mode & os.W_OK)
    code, text = run("rollouts", tmp_path / "prompts.txt", "--teacher", "nobody", "--out", tmp_path / "out")
    assert code == 2 and f"{tmp_path} cannot be written into" in text


def test_clips_have_the_teachers_rate_unless_told_otherwise(make_tiny_wan: Callable[..., None], tmp_path: Path) -> None:
    make_tiny_wan(tmp_path / "teacher")
    (tmp_path / "teacher" / "fewstep.json").unlink()
    (tmp_path / "videos").mkdir()
    film(tmp_path / "videos" / "a.mp4")
    (tmp_path / "videos" / "a.txt").write_text("a red square")
    size = ["--frames", 9, "--height", 16, "--width", 16]
    for name, options, fps in (("own", [], 16), ("told", ["--fps", 12], 12)):
        words = ["videos", tmp_path / "videos", "--teacher", tmp_path / "teacher", *size, *options]
        code, text = run(*words, "--out", tmp_path / name)
        assert code == 0, text
        assert read_manifest(tmp_path / name).fps == fps


def test_show_tells_what_a_dataset_holds(tmp_path: Path, tiny_wan_folder: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red square\n")
    words = ["--steps", 1, "--teacher", tiny_wan_folder, "--out", tmp_path / "out [v2]"]
    run("rollouts", tmp_path / "prompts.txt", *words, "--negative-prompt", "blurry, [deformed hands], [/b]")
    code, text = run("show", tmp_path / "out [v2]")
    assert code == 0
    for message in (
        "out [v2]",
        "blurry, [deformed hands], [/b]",
        "finished: 1 of 1 shards",
        "1, and 0 skipped",
        "float16 (tokens, 128)",
        "schedule shift",
    ):
        assert message in text


def csv_with(header: str) -> dict[str, str]:
    return {"c.csv": f"{header}\na.mp4,words\n"}


@pytest.mark.parametrize(
    ("files", "words", "sentence"),
    [
        ({}, ["videos", "nowhere"], "there is no folder nowhere"),
        ({}, ["videos", "."], "holds no files that could be videos"),
        (csv_with("film,caption"), ["videos", ".", "--captions", "c.csv"], "film, caption: one of file"),
        (csv_with("file,title"), ["videos", ".", "--captions", "c.csv"], "one of caption, text, prompt"),
        ({}, ["videos", ".", "--captions", "none.csv"], "there is no captions file none.csv"),
        ({"a.xlsx": ""}, ["videos", ".", "--captions", "a.xlsx"], "neither .csv nor .jsonl"),
        ({"c.jsonl": "{oops"}, ["videos", ".", "--captions", "c.jsonl"], "c.jsonl, line 1 is not JSON"),
        ({"c.jsonl": "[1]"}, ["videos", ".", "--captions", "c.jsonl"], "line 1 is not an object"),
        (
            {"c.csv": "file,text\na.mp4,x\na.mp4,y\n"},
            ["videos", ".", "--captions", "c.csv"],
            "line 3: a.mp4 already has a caption",
        ),
        ({}, ["rollouts", "none.txt"], "there is no prompts file none.txt"),
        ({"p.txt": "\n  \n"}, ["rollouts", "p.txt"], "p.txt holds no prompts"),
        ({"p.txt": "a"}, ["rollouts", "p.txt", "--teacher", "nobody"], "there is no folder nobody"),
        ({"p.txt": "a"}, ["rollouts", "p.txt", "--frames", "8"], "8 frames cannot be made"),
        ({"a.mp4": ""}, ["videos", ".", "--fps", "0"], "fps is 0.0; it must be above 0"),
        ({"a.mp4": ""}, ["videos", ".", "--fps", "inf"], "fps is inf; it must be above 0 and finite"),
        ({"p.txt": "a"}, ["rollouts", "p.txt", "--guidance", "nan"], "--guidance is nan; it must be a finite number"),
        ({"p.txt": "a"}, ["rollouts", "p.txt", "--device", "foo"], "there is no device foo on this machine: use cpu"),
        ({"p.txt": "a"}, ["rollouts", "p.txt", "--out", "p.txt/out"], "p.txt is a file: choose another --out"),
        (
            {"c.csv": "file,text\na.mp4,a ring, red\n"},
            ["videos", ".", "--captions", "c.csv"],
            "c.csv, line 2 has 3 cells, and the header 2: put a caption that holds commas in double quotes",
        ),
        (
            {"c.csv": "file,text\nz.mp4,a ring\n"},
            ["videos", ".", "--captions", "c.csv"],
            "none of the 1 entries of c.csv names a video in .: z.mp4; write the path of each video inside .",
        ),
        ({"p.csv": "a"}, ["rollouts", "p.csv"], "prompts file p.csv is a table: pass a .txt file"),
        ({"c.csv": 'file,text\na.mp4,"x\n'}, ["videos", ".", "--captions", "c.csv"], "c.csv, line 2 is not CSV"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_wan_folder: Path,
    files: dict[str, str],
    words: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--captions" in words:
        film(tmp_path / "a.mp4")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    code, text = run(*words[:2], "--teacher", tiny_wan_folder, "--out", "out", *words[2:])
    assert code == 2 and sentence in text.splitlines()[-1], text
    assert not Path("out").exists()
