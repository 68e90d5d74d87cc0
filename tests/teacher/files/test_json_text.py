from __future__ import annotations

from typing import Any

import pytest

from fewstep.teacher.files.json_text import DEEPEST, check_depth, parse_json


def test_it_reads_what_json_says() -> None:
    assert parse_json('{"a": [1, 2.5, null, "é"]}') == parse_json('{"a": [1, 2.5, null, "é"]}'.encode())
    assert parse_json('{"a": 1, "a": 2}', lambda pairs: [name for name, _ in pairs]) == ["a", "a"]
    assert parse_json(r'"\ud83d\udca5"') == "💥"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "levels deep"),
        ("[" * 200 + "]" * 200, "levels deep"),
        ('{"a":' * 200 + "1" + "}" * 200, "levels deep"),
        (r'{"a": "\ud800"}', "half a character"),
        (r'{"\udfff": 1}', "half a character"),
        ("{", "line 1"),
        ("9" * 5000, "digits"),
    ],
)
def test_what_cannot_be_used_is_a_value_error(text: str, message: str) -> None:
    for one in (text, text.encode()):
        with pytest.raises(ValueError, match=message):
            parse_json(one)


def test_half_a_character_in_bytes_is_found() -> None:
    with pytest.raises(ValueError, match="half a character"):
        parse_json(b'{"a": "\xed\xa0\x80"}')
    assert parse_json('"\ud55c"'.encode()) == "\ud55c"  # begins with ED as well


def test_depth_is_counted_without_recursion() -> None:
    nested: Any = 1
    for number in range(DEEPEST):
        nested = {"a": nested, "b": 1} if number % 2 else [nested, [1]]
    check_depth(nested)
    for _ in range(10_000):
        nested = {"a": nested}
    with pytest.raises(ValueError, match="levels deep"):
        check_depth(nested)
