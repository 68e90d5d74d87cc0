"""Which caption belongs to which video, and lists of prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.teacher.dataset.caption_files import read_captions, read_prompts


def videos(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names]


def captions(folder: Path, table: str, *names: str) -> dict[str, str]:
    """The captions of these videos, by their path inside the folder."""
    (folder / "told.csv").write_text(f"file,caption\n{table}")
    read = read_captions(videos(folder, *names), folder, folder / "told.csv")
    return {path.relative_to(folder).as_posix(): caption for path, caption in read.texts.items()}


def test_whole_paths_fit_a_relative_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clips").mkdir()
    table = f"{tmp_path}/clips/a.mp4,one\nclips/b.mp4,two\n./sub/c.mp4,three\nd.mp4,four\n"
    texts = captions(Path("clips"), table, "a.mp4", "b.mp4", "sub/c.mp4", "deep/d.mp4", "e.mp4")
    assert texts == {"a.mp4": "one", "b.mp4": "two", "sub/c.mp4": "three", "deep/d.mp4": "four"}


def test_a_linked_folder_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "clips")
    assert captions(tmp_path / "link", f"{(tmp_path / 'clips').resolve()}/a.mp4,one\n", "a.mp4") == {"a.mp4": "one"}


def test_a_bare_name_that_fits_several_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: 2 videos are called a\.mp4"):
        captions(tmp_path, "a.mp4,one\n", "x/a.mp4", "y/a.mp4")
    assert captions(tmp_path, "x/a.mp4,one\na.mp4,two\n", "x/a.mp4", "y/a.mp4") == {"x/a.mp4": "one", "y/a.mp4": "two"}
    assert captions(tmp_path, "a.mp4,one\n", "a.mp4", "x/a.mp4") == {"a.mp4": "one"}  # a path before a bare name


def test_entries_that_fit_no_video_are_counted_and_named(tmp_path: Path) -> None:
    (tmp_path / "told.csv").write_text("file,caption\n" + "".join(f"gone{i}.mp4,x\n" for i in range(7)) + "a.mp4,one\n")
    texts = read_captions(videos(tmp_path, "a.mp4"), tmp_path, tmp_path / "told.csv")
    listed = "gone0.mp4, gone1.mp4, gone2.mp4, gone3.mp4, gone4.mp4 and 2 more"
    assert str(texts.unmatched) == f"7 of 8 entries of told.csv name no video: {listed}"
    assert [stray.name for stray in texts.strays] == [f"gone{i}.mp4" for i in range(7)]


def test_a_table_of_other_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none of the 2 entries of .*told\.csv names a video in .*: a \(it lacks the"):
        captions(tmp_path, "a,one\nzz.mp4,two\n", "a.mp4", "b.mp4")


def test_prompts_files(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa red square\r\n\r\n  a ring \rein grüner Ring\u2028\n".encode())
    assert read_prompts(path) == ["a red square", "a ring", "ein grüner Ring"]
    path.write_bytes("ein Ring\nein grüner Ring".encode("latin-1"))
    with pytest.raises(ValueError, match=r"prompts\.txt, line 2 is not UTF-8 text \(byte 0xfc\): save it as UTF-8"):
        read_prompts(path)
    path.write_text("a ring\n\nnan\n")
    with pytest.raises(ValueError, match="line 3 has 'nan' for a prompt"):
        read_prompts(path)


@pytest.mark.parametrize("name", ["prompts.csv", "prompts.json"])
def test_a_table_is_no_list_of_prompts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("prompt\na ring\n")
    with pytest.raises(ValueError, match=r"is a table: pass a \.txt file with one prompt per line"):
        read_prompts(tmp_path / name)


def test_a_link_in_a_circle_is_a_clip_like_any_other(tmp_path: Path) -> None:
    """It is skipped once it is read."""
    (tmp_path / "a.mp4").symlink_to("a.mp4")
    (tmp_path / "b.txt").write_text("a ring")
    files = videos(tmp_path, "a.mp4", "b.mp4")
    assert read_captions(files, tmp_path, None).clips_among(files) == files
