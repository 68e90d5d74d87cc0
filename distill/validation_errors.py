"""pydantic's errors as sentences: where, what was wrong, what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

Schema = dict[str, Any]

_MOST = 20  # sentences
_LONGEST = 80  # characters of a value, or of a name in a path

_SENTENCES = {
    "missing": "is missing, and has no default",
    "string_type": "must be text: put it in quotes",
    "path_type": "must be the path of a file or folder",
    "invalid_key": "is not a name of a setting",
    "too_short": "has too few entries",
    "too_long": "has too many entries",
    "tuple_type": "must be a list, as in [1, 2]",
    "model_type": "must hold settings of its own, indented below it",
    "model_attributes_type": "must hold settings of its own, indented below it",
}


def error_sentences(error: ValidationError, schema: Schema) -> list[str]:
    """One sentence for each of the first mistakes, and how many more there are; `schema` is the JSON schema of the
    model that was validated."""
    errors = error.errors()
    more = [f"and {len(errors) - _MOST} more mistakes"] if len(errors) > _MOST else []
    return [*(_sentence(details, schema) for details in errors[:_MOST]), *more]


def _sentence(details: ErrorDetails, schema: Schema) -> str:
    path, around, here = _follow(details["loc"], schema)
    given, context = _short(repr(details["input"])), details.get("ctx", {})
    match details["type"]:
        case "extra_forbidden":
            return f"{path} is not a setting: {_nearest(_short(str(details['loc'][-1])), around.get('properties', ()))}"
        case "union_tag_not_found":
            return f"{path}.kind is missing: use {_either(here)}"
        case "union_tag_invalid":
            return f"{path}.kind is {_short(repr(context['tag']))}: use {_either(here)}"
        case "literal_error":
            return f"{path} is {given}: use {context['expected']}"
        case "value_error":
            return f"{path}: {context['error']}" if path else str(context["error"])
        case kind if kind in _SENTENCES:
            return f"{path} {_SENTENCES[kind]}"
    return f"{path} is {given}: {details['msg'][0].lower()}{details['msg'][1:]}"


def _follow(location: Sequence[str | int], schema: Schema) -> tuple[str, Schema, Schema]:
    """The dotted path as the user would write it, the schema that its last name stands in, and the one it leads to.

    pydantic's location also holds the kinds of discriminated unions, which are no part of the path.
    """
    path: list[str] = []
    around = here = schema
    for part in location:
        if "discriminator" in here:
            here = _plain({"$ref": here["discriminator"]["mapping"][part]}, schema)
            continue
        path.append(_short(str(part)))
        around = here
        below = here.get("properties", {}).get(part) if isinstance(part, str) else here.get("items")
        here = _plain(below or {}, schema)
    return ".".join(path), around, here


def _plain(node: Schema, schema: Schema) -> Schema:
    """What a node stands for: references followed, null left out."""
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        else:
            node = next(option for option in node["anyOf"] if option.get("type") != "null")
    return node


def _short(text: str) -> str:
    """Its beginning and its end."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 4 :]}"


def _either(union: Schema) -> str:
    """The kinds of a discriminated union, as a choice."""
    *kinds, last = union["discriminator"]["mapping"]
    return f"{', '.join(kinds)} or {last}"


def _nearest(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known := list(known), n=1)
    return f"did you mean {close[0]}?" if close else f"use {', '.join(known)}"
