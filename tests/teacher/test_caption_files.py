"""Which caption belongs to which video, and lists of prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.teacher.caption_files import read_captions, read_prompts


def videos(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


def captions(folder: Path, table: str, *names: str) -> dict[str, str]:
    """The captions of these videos, by their path inside the folder."""
    (folder / "told.csv").write_text(f"file,caption\n{table}")
    found = read_captions(videos(folder, *names), folder, folder / "told.csv")
    return {path.relative_to(folder).as_posix(): caption for path, caption in found.texts.items()}


def test_whole_paths_fit_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    table = f"{tmp_path}/clips/a.mp4,one\nclips/b.mp4,two\n./sub/c.mp4,three\nd.mp4,four\n"
    found = captions(Path("clips"), table, "a.mp4", "b.mp4", "sub/c.mp4", "deep/d.mp4", "e.mp4")
    assert found == {"a.mp4": "one", "b.mp4": "two", "sub/c.mp4": "three", "deep/d.mp4": "four"}


def test_a_linked_folder_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "clips")
    assert captions(tmp_path / "link", f"{(tmp_path / 'clips').resolve()}/a.mp4,one\n", "a.mp4") == {"a.mp4": "one"}


def test_a_bare_name_that_fits_several_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: 2 videos are called a\.mp4"):
        captions(tmp_path, "a.mp4,one\n", "x/a.mp4", "y/a.mp4")
    assert captions(tmp_path, "x/a.mp4,one\na.mp4,two\n", "x/a.mp4", "y/a.mp4") == {"x/a.mp4": "one", "y/a.mp4": "two"}
    assert captions(tmp_path, "a.mp4,one\n", "a.mp4", "x/a.mp4") == {"a.mp4": "one"}  # a path before a bare name
