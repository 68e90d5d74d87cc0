"""JSON that others wrote, read so that no text can crash or fill the process."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

DEEPEST = 100  # lists and objects within one another: what goes through them afterwards may be recursive

_Pairs = Callable[[list[tuple[str, Any]]], Any]


def parse_json(text: str | bytes, pairs: _Pairs | None = None) -> Any:
    """What a JSON text says; `pairs` makes an object of its names and values, and then characters are its affair.

    Raises ValueError, of which `json.JSONDecodeError` is one, with the reason alone: callers know which file it is and
    what to do about it. Reasons are also more levels than `DEEPEST`, and halves of characters, which no file can hold.
    """
    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    # read, it may still be too deep for what goes through it by recursion
    check_depth(value)
    # half a character could not be written to a file again: it comes from an escape, or from bytes that begin with ED
    suspect = b"\\u" in text or b"\xed" in text if isinstance(text, bytes) else "\\u" in text
    if pairs is None and suspect:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a character, \\ud800 to \\udfff without its other half") from None
    return value


def check_depth(value: Any, deepest: int = DEEPEST) -> None:
    """Raises ValueError for lists and objects that lie within one another more deeply than this; without recursion."""
    level = [value]
    for _ in range(deepest + 1):
        level = [part for node in level if isinstance(node, dict | list) for part in _parts(node)]
        if not level:
            return
    raise ValueError(_TOO_DEEP)


def _parts(node: dict[Any, Any] | list[Any]) -> list[Any]:
    return [part for part in (node.values() if isinstance(node, dict) else node) if isinstance(part, dict | list)]


_TOO_DEEP = f"its lists and objects lie within one another more than {DEEPEST} levels deep"
