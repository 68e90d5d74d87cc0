"""items.jsonl: what a dataset is made from, an item a line, so that a resume can name the file that came or went."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.files.json_text import parse_json

ITEMS_FILE = "items.jsonl"
_NAMED = 3  # items named in a message; of the others only the number

Listing = tuple[str, ...]  # a JSON list per item; of a video its path, size in bytes and caption


def listing_of(items: Sequence[Sequence[object]]) -> Listing:
    """The lines of these items."""
    return tuple(map(json.dumps, items))


def listing_sha256(listing: Listing) -> str:
    """What a manifest keeps of the items."""
    return hashlib.sha256("\n".join(listing).encode()).hexdigest()


def write_listing(folder: Path, listing: Listing) -> None:
    """Writes items.jsonl into a dataset's folder."""
    with whole_file(folder / ITEMS_FILE) as part:
        part.write_text("\n".join(listing) + "\n", "utf-8")


def read_listing(folder: Path, sha256: str) -> Listing | None:
    """The lines of items.jsonl, None where it is missing, as in older datasets, or not what `sha256` was taken of."""
    try:
        listing = tuple((folder / ITEMS_FILE).read_text("utf-8").removesuffix("\n").split("\n"))
    except (OSError, UnicodeDecodeError):
        return None
    return listing if listing_sha256(listing) == sha256 else None


def changes(then: Listing, now: Listing) -> str:
    """In words, what came to the items, what went, and what changed: "new.mp4 was added"."""
    before, after = ({parse_json(line)[0]: line for line in lines} for lines in (then, now))
    both = before.keys() & after.keys()
    candidates = [
        _verb([name for name in after if name not in before], "added"),
        _verb([name for name in before if name not in after], "removed"),
        _verb([name for name in before if name in both and _size(before[name]) != _size(after[name])], "replaced"),
        _verb(
            [name for name in both if _size(before[name]) == _size(after[name]) and before[name] != after[name]],
            "given another caption",
        ),
    ]
    sentences = [sentence for sentence in candidates if sentence]
    # items may repeat, which does not show by their names
    if not sentences and len(then) != len(now):
        return f"there were {len(then)} items and are {len(now)} now"
    return ", ".join(sentences) or "their order changed"


def _verb(names: list[str], what: str) -> str:
    """'a.mp4 and b.mp4 were added'"""
    if not names:
        return ""
    shown = [shorten(str(name), 60, placeholder=" …") for name in sorted(names)[:_NAMED]]
    if len(names) > _NAMED:
        return f"{', '.join(shown)} and {len(names) - _NAMED} more were {what}"
    return f"{' and '.join(shown)} {'was' if len(names) == 1 else 'were'} {what}"


def _size(line: str) -> object:
    """Of a video, its bytes."""
    item = parse_json(line)
    return item[1] if len(item) > 1 else None
