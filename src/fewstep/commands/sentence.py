"""What went wrong as one line that a terminal can show, whatever a file or an option held."""

from __future__ import annotations

_LONGEST, _HEAD = 2000, 1300  # characters; of these from the beginning


def one_line(text: str) -> str:
    """The text on one line, without control characters, its middle left out where it is long."""
    words = " ".join(text.split())
    if len(words) > _LONGEST:
        words = f"{words[:_HEAD]} … {words[-(_LONGEST - _HEAD) :]}"
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in words)[: 2 * _LONGEST]


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
