"""Text that users wrote: read whole and as it is meant, or refused with the line that is wrong."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

_BYTE_ORDER_MARKS = {  # UTF-32 first: its mark begins as that of UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_OTHER_FORMATS = {
    b"PK\x03\x04": "an Office document or another zip archive",
    b"\xd0\xcf\x11\xe0": "an old Office document",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF document",
    b"{\\rtf": "a rich text document",
}
_LINE_END = re.compile(r"\r\n|\r|\n")
# Control characters but tab and line ends; byte order marks and other code points that stand for no character; and
# U+FFFD, which stands where another program could not read a letter.
_NO_CHARACTER = "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffd-\uffff\ud800-\udfff]"
# What UTF-8 becomes in a program that takes it for Windows-1252: quotes, dashes, accented small letters, emoji.
_MISREAD = (
    "\u00e2\u20ac[\u2122\u02dc\u0153\u201c\u201d\xa6\xa2]|[\u00c2\u00c3][\xa0-\xaa\xac-\xba\xbc-\xbf]|\u00f0\u0178"
)
_NO_TEXT = re.compile(f"{_NO_CHARACTER}|{_MISREAD}")
_INVISIBLE = re.compile(r"[\s\u00ad\u034f\u200b-\u200f\u2060-\u2064]*")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.

    Raises ValueError, with the line, for another encoding or format and for characters that no text has.
    """
    content = path.read_bytes()
    # a table saved as .xlsx or compressed decodes to nonsense at best: its first bytes tell
    for magic, kind in _OTHER_FORMATS.items():
        if content.startswith(magic):
            raise ValueError(f"{path} is {kind}, not plain text: export it as text in UTF-8")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        # all before the wrong byte is text, so that its lines can be counted
        line = _line_of(content[: error.start].decode(encoding, "ignore"))
        byte = f"byte 0x{content[error.start]:02x}"
        raise ValueError(f"{path}, line {line} is not {name} text ({byte}): save it as UTF-8") from error
    if wrong := _NO_TEXT.search(text):
        check_characters(wrong[0], f"{path}, line {_line_of(text[: wrong.start()])}")
    return text


def check_characters(text: str, place: str) -> None:
    """Raises ValueError when the text holds a character that no text has; `place` is where it stands, in words."""
    if not (wrong := _NO_TEXT.search(text)):
        return
    if len(wrong[0]) > 1:
        raise ValueError(
            f"{place} holds {wrong[0]!r}, which is UTF-8 that another program took for Windows-1252: write the letters "
            "that were meant, or export the text again as UTF-8"
        )
    code = f"U+{ord(wrong[0]):04X}"
    if wrong[0] == "\ufffd":
        raise ValueError(
            f"{place} holds the replacement character {code}: write the letter that another program could not read"
        )
    if unicodedata.category(wrong[0]) == "Cc":
        kind = f"the control character {code}"
    else:
        kind = f"a byte order mark, {code}, behind its beginning" if wrong[0] == "\ufeff" else f"{code}, no character"
    raise ValueError(f"{place} holds {kind}: delete it, or save the file as UTF-8")


def is_blank(text: str) -> bool:
    """Whether nothing of it can be seen, as of blanks and zero-width characters."""
    return _INVISIBLE.fullmatch(text) is not None


def lines_of(text: str) -> list[str]:
    """The lines of a text, whichever system ended them."""
    return _LINE_END.split(text)


def first_few(things: Sequence[object], most: int = 5) -> str:
    """A list for a sentence: the first few, and how many more there are."""
    shown = ", ".join(map(str, things[:most]))
    return shown if len(things) <= most else f"{shown} and {len(things) - most} more"


def _line_of(before: str) -> int:
    return len(_LINE_END.findall(before)) + 1
