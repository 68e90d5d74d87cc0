"""Error messages as one line that a terminal can show, whatever a file or an option contained."""

from __future__ import annotations

_LONGEST, _HEAD = 2000, 1300  # characters; of these from the beginning


def one_line(text: str) -> str:
    """The text on one line, without control characters, its middle left out where it is long."""
    words = " ".join(text.split())
    if len(words) > _LONGEST:
        words = f"{words[:_HEAD]} … {words[-(_LONGEST - _HEAD) :]}"
    return "".join(letter if letter.isprintable() else _escaped(letter) for letter in words)[: 2 * _LONGEST]


def error_text(error: BaseException) -> str:
    """The message of an error, for users."""
    from pydantic import ValidationError

    from fewstep.teacher.files.atomic import disk_full_sentence

    if (full := disk_full_sentence(error)) is not None:
        return full
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
