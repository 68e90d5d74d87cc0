"""A shard that was stopped in the middle: what was made of it waits in a hidden file next to it, for the next run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]

from fewstep.teacher.dataset.manifest import Skip
from fewstep.teacher.files.json_text import parse_json

Record = dict[str, Any]  # a row as Parquet holds it

_KEY = "fewstep"


def keep_begun(part: Path, shard: Path) -> None:
    """Keeps a Parquet file, written with `partial_shard_metadata`, as what is there of `shard`."""
    os.replace(part, partial_shard_path(shard))


def partial_shard_path(shard: Path) -> Path:
    """Where the begin of a shard waits."""
    return shard.with_name(f".{shard.stem}.begun{shard.suffix}")


def partial_shard_metadata(items: list[Skip | None]) -> dict[str, str]:
    """What tells the items of a begun shard apart: those skipped, and None for each that has a row."""
    return {_KEY: json.dumps([None if item is None else item.model_dump(mode="json") for item in items])}


class PartialShard:
    """What is there of a shard: all that was made in whole batches of `batch_size` items, as a source makes them."""

    def __init__(self, shard: Path, batch_size: int = 1) -> None:
        self._path = partial_shard_path(shard)
        items = _read_items(self._path)
        self._items = items[: len(items) // batch_size * batch_size]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Record | Skip]:
        """Rows and skipped items, in order."""
        if not self._items:
            return
        with pq.ParquetFile(self._path) as file:
            records = (record for batch in file.iter_batches(batch_size=16) for record in batch.to_pylist())
            kept = islice(records, self._items.count(None))
            for item in self._items:
                yield next(kept) if item is None else item


def _read_items(path: Path) -> list[Skip | None]:
    """None where there is no such file, or one that a power cut has broken."""
    try:
        with pq.ParquetFile(path) as file:
            items = parse_json(file.metadata.metadata[_KEY.encode()])
            return [None if item is None else Skip.model_validate(item) for item in items]
    except (OSError, ValueError, KeyError, TypeError):
        return []
