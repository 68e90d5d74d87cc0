"""Reading a dataset back: whether it is whole and of this teacher, its rows, its unconditional branch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from torch import Tensor

from fewstep.teacher.conditions import EMBEDDINGS, Conditions
from fewstep.teacher.dataset.manifest import OF_BOTH, OF_TEXT, Manifest, Shard, TensorLayout, read_manifest
from fewstep.teacher.files.checksums import sha256

_ROWS_PER_READ = 16


def read_unconditional(folder: Path) -> dict[str, Tensor] | None:
    """The tensors of the unconditional branch, such as embeddings (L, D); None for a teacher that has none.

    Raises ValueError when they are missing or damaged.
    """
    manifest = read_manifest(folder)
    if manifest.unconditional is None:
        return None
    check_shard(folder, manifest.unconditional, check_sha256=True)
    (row,) = read_rows([str(folder / manifest.unconditional.name)], manifest.tensors)
    return _branch(row)


def read_stored_captions(folder: Path, manifest: Manifest) -> list[str]:
    """The caption of every row that is there, without its tensors. Raises ValueError for a damaged shard."""
    captions: list[str] = []
    for shard in manifest.shards:
        check_shard(folder, shard, check_sha256=False)
        captions += pq.read_table(folder / shard.name, columns=["caption"]).column("caption").to_pylist()
    return captions


def conditions_of(
    rows: Sequence[Mapping[str, Any]],
    unconditional: Mapping[str, Tensor] | None,
    padded: frozenset[str] = frozenset({EMBEDDINGS}),
) -> Conditions:
    """The teacher's conditions of these rows, in float32; `unconditional` is that of `read_unconditional`, `padded`
    that of the teacher."""

    def batched(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor[None].float() for name, tensor in tensors.items()}

    negative = None if unconditional is None else batched(unconditional)
    return Conditions.join(
        [Conditions(batched(_branch(row)), negative, batched(_among(row, OF_BOTH)), padded) for row in rows]
    )


def _branch(row: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: row[name] for name in (EMBEDDINGS,) if name in row} | _among(row, OF_TEXT)


def _among(row: Mapping[str, Any], beginning: str) -> dict[str, Tensor]:
    return {name.removeprefix(beginning): tensor for name, tensor in row.items() if name.startswith(beginning)}


def check_dataset(folder: Path, manifest: Manifest, teacher_sha256: str) -> None:
    """Raises ValueError for a dataset of another teacher, an unfinished one, or one with a missing or damaged shard."""
    # latents and embeddings mean something to the weights that made them alone
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
        check_shard(folder, shard)


def check_shard(folder: Path, shard: Shard, check_sha256: bool = True) -> None:
    """Raises ValueError when a shard is missing or damaged."""
    path = folder / shard.name
    if not path.is_file():
        raise ValueError(f"{path} is missing: run the command that made the dataset again to make it")
    if check_sha256 and sha256(path) != shard.sha256:
        raise ValueError(f"{path} is damaged (its sha256 is off): {_REMEDY}")
    # the file's end says how many rows there are, without reading one
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError) as error:  # pyarrow raises both for a file that is no Parquet
        raise ValueError(f"{path} is damaged (it is not a Parquet file): {_REMEDY}") from error
    if rows != shard.rows:
        raise ValueError(f"{path} has {rows} rows and should have {shard.rows}: {_REMEDY}")


_REMEDY = "delete it and run the command that made the dataset again"


def read_rows(paths: list[str], tensors: dict[str, TensorLayout]) -> Iterator[dict[str, Any]]:
    """{"id", "caption", "seed", and the tensors of the manifest that a row has}, in the order of writing.

    Tensors keep the dtype on disk. Raises ValueError for a file that does not hold what the manifest says.
    """
    for path in paths:
        for row in _plain_rows(path):
            try:
                stored = {name: row[name] for name in tensors if row[name] is not None}
                decoded = {name: _tensor(stored[name], tensors[name]) for name in stored}
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise ValueError(f"{path} does not hold what its manifest says ({error}): {_REMEDY}") from error
            yield row | decoded


def _plain_rows(path: str) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_PER_READ):
                yield from batch.to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is damaged ({reason}): {_REMEDY}") from error


def _tensor(stored: bytes, layout: TensorLayout) -> Tensor:
    shape = tuple(-1 if size is None else size for size in layout.shape)
    array = np.frombuffer(stored, layout.dtype).reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError("a tensor has numbers that are not finite")
    return torch.from_numpy(array.copy())
