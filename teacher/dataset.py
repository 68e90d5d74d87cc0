"""Writing a dataset: Parquet shards of latents and text embeddings that survive a kill at any moment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from torch import Tensor

from fewstep.teacher.atomic import ELSEWHERE, check_writable, only_writer, whole_file
from fewstep.teacher.checksums import sha256
from fewstep.teacher.listing import read_listing, write_listing
from fewstep.teacher.manifest import FILE_NAME, Layout, Manifest, Shard, Skip, read_manifest

REPORT = "skipped.jsonl"
_ROWS_PER_GROUP = 16  # what a reader holds in memory of each shard


@dataclass(frozen=True)
class Row:
    """One clip or prompt: its tensors as the manifest lays them out, and its noise's seed, if any."""

    id: str
    caption: str
    tensors: dict[str, Tensor] = field(repr=False)
    seed: int | None = None


class Source(Protocol):
    """What a dataset is made from; the same item gives the same row whenever it is asked."""

    def rows(self, items: range) -> Iterable[Row | Skip]:
        """One Row or Skip per item, in order."""


def write_dataset(
    folder: Path,
    plan: Manifest,
    unconditional: Row | None,
    source: Source,
    advance: Callable[[], None] = lambda: None,
    elsewhere: str = ELSEWHERE,
) -> Manifest:
    """Makes every shard of the plan that is not there yet, and returns the finished manifest.

    A shard is written whole or not at all, so a killed run goes on where it stopped when called again with
    the same plan. `advance` is called after every item made; `elsewhere` says how another folder is chosen.
    Raises ValueError when the folder is in use by another process or was begun with another plan; OSError when
    the disk is full. No finished shard is lost.
    """
    check_writable(folder, elsewhere)
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder, elsewhere):
        manifest = _begin(folder, plan, unconditional, elsewhere)
        for number in range(manifest.num_shards):
            path = folder / f"shard-{number:05d}.parquet"
            if number < len(manifest.shards) and path.exists():
                continue
            made = _counted(source.rows(manifest.share(number)), advance)
            shard = _write_shard(path, made, manifest.tensors)
            shards = (*manifest.shards[:number], shard, *manifest.shards[number + 1 :])
            manifest = manifest.model_copy(update={"shards": shards})
            manifest.write(folder)
        _write_report(folder, manifest)
    return manifest


def _begin(folder: Path, plan: Manifest, unconditional: Row | None, elsewhere: str) -> Manifest:
    """The manifest of the run this one continues, or a new one."""
    begun = begun_manifest(folder, elsewhere)
    if begun is not None:
        plan.continues(begun, folder, elsewhere)
    begun = begun or plan
    path = folder / "unconditional.parquet"
    if unconditional is not None and not (begun.unconditional and path.exists()):
        shard = _write_shard(path, [unconditional], plan.tensors)
        begun = begun.model_copy(update={"unconditional": shard})
    if read_listing(folder, plan.items_sha256) is None:
        write_listing(folder, plan.listing)
    begun.write(folder)
    return begun


def begun_manifest(folder: Path, elsewhere: str = ELSEWHERE) -> Manifest | None:
    """The manifest of a dataset that was begun in the folder, None where none was.

    Raises ValueError when it cannot be read, or its shards are there without it.
    """
    if (folder / FILE_NAME).exists():
        return read_manifest(folder)
    if any(folder.glob("shard-*.parquet")):
        raise ValueError(f"{folder} holds shards and no {FILE_NAME}: {elsewhere}, or empty it")
    return None


def _write_shard(path: Path, made: Iterable[Row | Skip], tensors: dict[str, Layout]) -> Shard:
    schema = pa.schema(
        [("id", pa.string()), ("caption", pa.string()), ("seed", pa.int64())]
        + [(name, pa.binary()) for name in tensors]
    )
    skipped: list[Skip] = []
    rows = 0
    # Latents are noise to a compressor, and every dictionary or statistic of them would be dead weight.
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with whole_file(path) as part, part.open("wb") as file, pq.ParquetWriter(file, schema, **plain) as writer:
        for group in _groups(_unskipped(made, skipped)):
            writer.write_table(pa.Table.from_pylist([_record(row, tensors) for row in group], schema))
            rows += len(group)
    return Shard(name=path.name, rows=rows, sha256=sha256(path), skipped=tuple(skipped))


def _unskipped(made: Iterable[Row | Skip], skipped: list[Skip]) -> Iterator[Row]:
    for item in made:
        if isinstance(item, Skip):
            skipped.append(item)
        else:
            yield item


def _groups(rows: Iterator[Row]) -> Iterator[list[Row]]:
    while group := list(islice(rows, _ROWS_PER_GROUP)):
        yield group


def _record(row: Row, tensors: dict[str, Layout]) -> dict[str, object]:
    stored = {name: _bytes(row, name, layout) for name, layout in tensors.items() if name in row.tensors}
    return {"id": row.id, "caption": row.caption, "seed": row.seed, **stored}


def _bytes(row: Row, name: str, layout: Layout) -> bytes:
    tensor = row.tensors[name]
    sizes = zip(tensor.shape, layout.shape, strict=True)
    assert all(wanted in (None, size) for size, wanted in sizes), f"{name} is {tuple(tensor.shape)}"
    if not tensor.isfinite().all():
        raise ValueError(
            f"{row.id}: {name} holds NaN or infinite numbers, so the teacher failed on it: "
            "use less guidance, or float32 (--dtype of `fewstep data`, precision in a recipe)"
        )
    stored = tensor.detach().to("cpu", getattr(torch, layout.dtype))
    if not stored.isfinite().all():
        raise ValueError(f"{row.id}: {name} leaves the range of {layout.dtype}: use `fewstep data --store float32`")
    return stored.contiguous().numpy().tobytes()


def _counted(made: Iterable[Row | Skip], advance: Callable[[], None]) -> Iterator[Row | Skip]:
    for item in made:
        yield item
        advance()


def _write_report(folder: Path, manifest: Manifest) -> None:
    """One line of JSON for every item that was skipped; no file when there is none."""
    lines = [skip.model_dump_json() + "\n" for skip in manifest.skipped]
    (folder / REPORT).unlink(missing_ok=True)
    if lines:
        with whole_file(folder / REPORT) as part:
            part.write_bytes("".join(lines).encode())
