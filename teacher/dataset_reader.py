"""Reading a dataset back: a shuffled stream of rows, one share per rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from datasets import IterableDataset  # type: ignore[import-untyped]
from datasets.distributed import split_dataset_by_node  # type: ignore[import-untyped]
from torch import Tensor

from fewstep.teacher.checksums import sha256
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.manifest import Layout, Manifest, Shard, read_manifest

_ROWS_PER_READ = 16


def open_dataset(
    folder: Path,
    *,
    teacher_sha256: str,
    seed: int | None = None,
    shuffle_buffer: int = 1024,
    rank: int = 0,
    world_size: int = 1,
    check_sha256: bool = True,
) -> IterableDataset:
    """Streams {"id", "caption", "seed", and one torch tensor for each name in the manifest's `tensors`}.

    With a seed the order is shuffled through a buffer of rows, the same for the same seed and the same
    `set_epoch(epoch)`; without one it is the order of writing. Every row belongs to exactly one rank, and
    the shares may differ in length by a few rows. Tensors keep the dtype on disk.

    Raises ValueError for a dataset of another teacher, an unfinished one, and one with a missing or damaged
    shard; `check_sha256=False` checks only names and row counts, without reading everything once.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}; it must be from 0 to {world_size - 1} for {world_size} processes")
    manifest = read_manifest(folder)
    check_dataset(folder, manifest, teacher_sha256, check_sha256)
    paths = [str(folder / shard.name) for shard in manifest.shards if shard.rows]
    stream = IterableDataset.from_generator(
        read_rows, gen_kwargs={"paths": paths, "tensors": manifest.tensors}, features=None
    )
    if seed is not None:
        stream = stream.shuffle(seed=seed, buffer_size=shuffle_buffer)
    return split_dataset_by_node(stream, rank=rank, world_size=world_size) if world_size > 1 else stream


def read_unconditional(folder: Path) -> Tensor | None:
    """The embeddings (L, D) of the unconditional branch, None for a teacher that has none.

    Raises ValueError when they are missing or damaged.
    """
    manifest = read_manifest(folder)
    if manifest.unconditional is None:
        return None
    check_shard(folder, manifest.unconditional, check_sha256=True)
    (row,) = read_rows([str(folder / manifest.unconditional.name)], manifest.tensors)
    embeddings: Tensor = row["embeddings"]
    return embeddings


def conditions_of(rows: Sequence[Mapping[str, Any]], unconditional: Tensor | None) -> Conditions:
    """The teacher's conditions of these rows, in float32; `unconditional` is that of `read_unconditional`."""
    extras = [name for name in rows[0] if name.startswith("extras.")]
    return Conditions.join(
        [
            Conditions(
                row["embeddings"][None].float(),
                None if unconditional is None else unconditional[None].float(),
                {name.removeprefix("extras."): row[name][None] for name in extras},
            )
            for row in rows
        ]
    )


def check_dataset(folder: Path, manifest: Manifest, teacher_sha256: str, check_sha256: bool = True) -> None:
    """Raises ValueError as `open_dataset` does."""
    if manifest.teacher_sha256 != teacher_sha256:
        raise ValueError(
            f"{folder} was made with the teacher {manifest.teacher} ({manifest.teacher_sha256[:12]}…), "
            f"not with this one ({teacher_sha256[:12]}…): make the dataset again with this teacher"
        )
    if not manifest.complete:
        raise ValueError(
            f"{folder} is unfinished ({len(manifest.shards)} of {manifest.num_shards} shards): "
            "run the command that makes it again to resume"
        )
    if not manifest.rows:
        raise ValueError(f"{folder} has no rows, every item was skipped: its skipped.jsonl says why")
    for shard in manifest.shards:
        check_shard(folder, shard, check_sha256)


def check_shard(folder: Path, shard: Shard, check_sha256: bool = True) -> None:
    """Raises ValueError when a shard is missing or damaged."""
    path = folder / shard.name
    if not path.is_file():
        raise ValueError(f"{path} is missing: run the command that made the dataset again to make it")
    if check_sha256 and sha256(path) != shard.sha256:
        raise ValueError(f"{path} is damaged (its sha256 is off): {_REMEDY}")
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError) as error:  # pyarrow raises both for a file that is no Parquet
        raise ValueError(f"{path} is damaged (it is not a Parquet file): {_REMEDY}") from error
    if rows != shard.rows:
        raise ValueError(f"{path} has {rows} rows and should have {shard.rows}: {_REMEDY}")


_REMEDY = "delete it and run the command that made the dataset again"


def read_rows(paths: list[str], tensors: dict[str, Layout]) -> Iterator[dict[str, Any]]:
    """The rows of these shards in order, with their tensors; `datasets` shuffles and shares out the list of paths."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_PER_READ):
                for row in batch.to_pylist():
                    stored = {name: row[name] for name in tensors if row[name] is not None}
                    yield row | {name: _tensor(stored[name], tensors[name]) for name in stored}


def _tensor(stored: bytes, layout: Layout) -> Tensor:
    shape = tuple(-1 if size is None else size for size in layout.shape)
    return torch.from_numpy(np.frombuffer(stored, layout.dtype).reshape(shape).copy())
