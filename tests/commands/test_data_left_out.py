"""`fewstep data`: entries that fit no video, prompts that are cut, and folders that are no place for a dataset."""

from __future__ import annotations

import json
from pathlib import Path

from fewstep.teacher.dataset.manifest import read_manifest
from tests.commands.test_data import film, run, write_csv


def test_entries_that_fit_no_video_are_counted_named_and_kept(tmp_path: Path, tiny_wan_folder: Path) -> None:
    (tmp_path / "videos").mkdir()
    film(tmp_path / "videos" / "a.mp4")
    captions = write_csv(tmp_path / "t.csv", {"a.mp4": "a red square", "gone.mp4": "x", "A.mp4": "y"})
    words = ["videos", tmp_path / "videos", "--captions", captions, "--teacher", tiny_wan_folder]
    code, text = run(*words, "--out", tmp_path / "out")
    hint = "it differs only in case from a.mp4"
    assert code == 3 and f"2 of 3 entries of t.csv name no video: gone.mp4, A.mp4 ({hint})" in text
    kept = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").open()]
    assert [line["file"] for line in kept] == ["gone.mp4", "A.mp4"]
    assert kept[1]["reason"] == f"{captions}, line 4: no video has this name; {hint}"
    code, text = run("show", tmp_path / "out")
    assert code == 0 and "2 of 3 entries of t.csv name no video: gone.mp4" in text
    write_csv(tmp_path / "t.csv", {"a.mp4": "a red square"})
    assert run(*words, "--out", tmp_path / "out")[0] == 0  # mended: the same dataset, without the remark
    assert not (tmp_path / "out" / "skipped.jsonl").exists() and read_manifest(tmp_path / "out").unmatched is None


def test_a_given_file_that_is_missing_costs_its_clip_alone(tmp_path: Path, tiny_wan_vace_folder: Path) -> None:
    rows = ["file,caption,pose"]
    (tmp_path / "videos" / "poses").mkdir(parents=True)
    for name in ("a", "b", "c"):
        film(tmp_path / "videos" / f"{name}.mp4")
        film(tmp_path / "videos" / "poses" / f"{name}.mp4")
        rows.append(f"{name}.mp4,{'' if name == 'c' else 'a ring'},videos/poses/{name}.mp4")
    (tmp_path / "videos" / "poses" / "b.mp4").unlink()
    (tmp_path / "t.csv").write_text("\n".join(rows))
    words = ["videos", tmp_path / "videos", "--captions", tmp_path / "t.csv", "--teacher", tiny_wan_vace_folder]
    code, text = run(*words, "--given", "control=pose", "--out", tmp_path / "out")
    assert code == 3, text
    skipped = {line["file"]: line["reason"] for line in map(json.loads, (tmp_path / "out" / "skipped.jsonl").open())}
    assert read_manifest(tmp_path / "out").rows == 1
    assert skipped.keys() == {"b.mp4", "c.mp4"}  # that of a clip without a caption is no clip either
    assert "poses/b.mp4" in skipped["b.mp4"]


def test_long_prompts_are_counted_for_rollouts_and_negative_prompts(
    tmp_path: Path, tiny_cogvideox_folder: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("a ring\n" + "a red ring " * 6)
    words = ["--teacher", tiny_cogvideox_folder, "--steps", 1, "--negative-prompt", "ring " * 20]
    code, text = run("rollouts", tmp_path / "prompts.txt", *words, "--out", tmp_path / "out")
    assert code == 0 and "2 of 3 prompts are longer than the text encoder's 16 tokens and are cut there" in text, text
    assert "'a red ring a red ring a red ring a re...' (19 tokens)" in text


def test_a_folder_of_other_things_is_no_place_for_a_dataset(tmp_path: Path, tiny_wan_folder: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a ring\n")
    for name in ("run/recipe.yaml", "run/stages/4-step/contract.json", "begun/state.pt", "notes/readme.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    words = ["rollouts", tmp_path / "prompts.txt", "--teacher", tiny_wan_folder, "--steps", 1, "--out"]
    for out, sentence in (
        ("run", "lies in a run directory"),
        ("run/data", "lies in a run directory"),
        ("run/stages/4-step/data", "lies in a run directory"),
        ("begun/new", "lies in a run directory"),
        ("notes", "holds files other than a dataset's, such as readme.md: choose another folder with --out"),
    ):
        before = sorted(tmp_path.rglob("*"))
        code, text = run(*words, tmp_path / out)
        assert code == 2 and sentence in text, text
        assert sorted(tmp_path.rglob("*")) == before
    film(tmp_path / "notes" / "a.mp4")
    code, text = run("videos", tmp_path / "notes", "--teacher", tiny_wan_folder, "--out", tmp_path / "notes")
    assert code == 2 and "holds files other than a dataset's, such as a.mp4, readme.md" in text
    (tmp_path / "recipe.yaml").write_text("teacher: shapes\nout: runs/mine\n")  # one's own, next to no run
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / ".hidden").touch()
    for out in ("fresh", "fresh", "new/deep"):
        assert run(*words, tmp_path / out)[0] == 0
    (tmp_path / "fresh" / "readme.md").touch()  # a dataset that is there already stays one
    assert run(*words, tmp_path / "fresh")[0] == 0


def test_there_are_no_datasets_of_prompts_alone(tmp_path: Path) -> None:
    code, text = run("prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out")
    assert code == 2 and "No such command 'prompts'" in text
