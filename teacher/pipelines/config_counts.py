"""Whole numbers in configs that no part of a pipeline can have: a network of a billion layers is never made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewstep.teacher.pipelines.index import read_json
from fewstep.teacher.pipelines.weight_files import RESTORE

_MOST = {  # word of a name -> how large its number may be; the first that fits counts
    "channels": 2**20,
    "layer": 1000,
    "block": 1000,
    "depth": 1000,
    "timesteps": 100_000,
    "seq_len": 2**22,
    "position": 2**24,
    "dim": 2**20,
    "size": 2**24,  # of vocabularies, too
}
_OTHERS = 2**31


def check_counts(config: Path) -> None:
    """Raises ValueError for a number in a part's config that is far beyond all that there are; a file that is not there
    or is no config is for others to refuse."""
    if not config.is_file():
        return
    for name, value in _numbers("", read_json(config)):
        most = next((most for word, most in _MOST.items() if word in name), _OTHERS)
        if abs(value) > most:
            raise ValueError(f"{config} has {name[:60]} {str(value)[:20]}, and at most {most:,} can be: {RESTORE}")


def _numbers(name: str, value: Any) -> Iterator[tuple[str, int]]:
    """Every whole number, with the name that it stands under."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(str(key), part)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(name, part)
    elif type(value) is int:
        yield name, value
