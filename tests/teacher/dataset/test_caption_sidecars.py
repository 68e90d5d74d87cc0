"""Captions in .txt files next to videos."""

from __future__ import annotations

from pathlib import Path
from unicodedata import normalize

import pytest

from fewstep.teacher.dataset.caption_files import read_captions


def captions(folder: Path, files: dict[str, bytes], videos: list[str]) -> tuple[dict[str, str], str]:
    """name of a video -> its caption, and what is said of the other .txt files."""
    for name, content in (dict.fromkeys(videos, b"") | files).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    read = read_captions([folder / video for video in videos], folder, None)
    texts = {video.relative_to(folder).as_posix(): text for video, text in read.texts.items()}
    return texts, str(read.unmatched or "")


def test_each_txt_file_describes_the_video_beside_it(tmp_path: Path) -> None:
    composed, decomposed = (normalize(form, "é") for form in ("NFC", "NFD"))
    files = {
        "a.txt": b"\xef\xbb\xbfa red\r\nring\r\n",
        "sub/b.TXT": "blau, größer".encode("utf-16"),
        f"{decomposed}.txt": b"green",
        "c.txt": b" \n",
    }
    videos = ["a.mp4", "sub/b.webm", f"{composed}.mp4", "c.mp4", "d.mp4"]
    assert captions(tmp_path, files, videos) == (
        {"a.mp4": "a red ring", "sub/b.webm": "blau, größer", f"{composed}.mp4": "green"},
        "",
    )


def test_txt_files_beside_no_video_are_counted_and_named(tmp_path: Path) -> None:
    files = {
        "a.txt": b"red",
        "B.txt": b"x",
        "c.mp4.txt": b"x",
        "gone.txt": b"x",
        "notes/read.txt": b"x",
        ".b.txt": b"x",
    }
    texts, text = captions(tmp_path, files, ["a.mp4", "b.mp4", "c.mp4"])
    assert texts == {"a.mp4": "red"}
    hints = "B.txt (it differs only in case from b.mp4), c.mp4.txt (c.mp4 is described by c.txt), gone.txt"
    assert text == f"3 of 4 .txt files name no video: {hints}"


def test_txt_files_that_cannot_be_read_are_all_named(tmp_path: Path) -> None:
    files = {"a.txt": "red\nthat\x92s".encode("latin-1"), "b.txt": b"blue", "c.txt": b"x\0", "d.txt": b"nan"}
    with pytest.raises(ValueError) as error:
        captions(tmp_path, files, ["a.mp4", "b.mp4", "c.mp4", "d.mp4"])
    wrong, others = str(error.value).split("; ")
    assert wrong == f"{tmp_path / 'a.txt'}, line 2 is not UTF-8 text (byte 0x92): save it as UTF-8"
    assert others == f"nor can {tmp_path / 'c.txt'}, {tmp_path / 'd.txt'} be read"
