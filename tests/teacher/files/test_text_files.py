"""Text that users wrote, in whichever encoding: read right, or refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.teacher.files.text_files import check_characters, first_few, lines_of, read_text


def read(folder: Path, content: bytes) -> str:
    (folder / "text.txt").write_bytes(content)
    return read_text(folder / "text.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marked_unicode_is_read(tmp_path: Path, encoding: str) -> None:
    assert read(tmp_path, "ein grüner Ring\n赤い輪 🙂".encode(encoding)) == "ein grüner Ring\n赤い輪 🙂"


def test_marks_of_big_endian_files(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xfe\xff" + "é".encode("utf-16-be")) == "é"
    assert read(tmp_path, b"\x00\x00\xfe\xff" + "é".encode("utf-32-be")) == "é"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a\r\nb\rthat\x92s".encode("latin-1"), "line 3 is not UTF-8 text (byte 0x92): save it as UTF-8"),
        ("a\ncafé".encode("latin-1"), "line 2 is not UTF-8 text (byte 0xe9): save it as UTF-8"),
        ("赤い".encode("shift-jis"), "line 1 is not UTF-8 text"),
        ("红色".encode("gbk"), "line 1 is not UTF-8 text"),
        ("a\nb".encode("utf-16-le"), "line 1 holds the control character U+0000"),
        ("a\nbc".encode("utf-16")[:-1], "line 2 is not UTF-16 text"),
        (b"a\n\xed\xa0\x80", "line 2 is not UTF-8 text"),  # half a character
        (b"a\nb\0c", "line 2 holds the control character U+0000: delete it"),
        (b"a\n\n\x1b$B", "line 3 holds the control character U+001B"),
        ("that\x92s".encode(), "line 1 holds the control character U+0092"),
        ("a\nb\ufffdc".encode(), "line 2 holds the replacement character U+FFFD: write the letter"),
        ("a\n\ufeffb".encode(), "line 2 holds a byte order mark, U+FEFF, behind its beginning: delete it"),
        (b"PK\x03\x04...", "is an Office document or another zip archive, not plain text: export it"),
        (b"\xd0\xcf\x11\xe0...", "is an old Office document"),
        (b"\x1f\x8b\x08", "is a gzip archive"),
        (b"PAR1...", "is a Parquet file"),
        (b"{\\rtf1\\ansi a ring}", "is a rich text document"),
        (b"%PDF-1.7", "is a PDF document"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        read(tmp_path, content)
    assert sentence in str(error.value) and "text.txt" in str(error.value)


def test_characters_of_no_text_are_found_behind_escapes() -> None:
    check_characters("tabs\tand\nlines, 🙂", "here")
    with pytest.raises(ValueError, match=r"here holds U\+D83D, no character"):
        check_characters("\ud83d", "here")


def test_lines_and_lists() -> None:
    assert lines_of("a\r\nb\rc\n\u2028d") == ["a", "b", "c", "\u2028d"]
    assert first_few(["a", "b"]) == "a, b" and first_few(list("abcdefg"), most=3) == "a, b, c and 4 more"
