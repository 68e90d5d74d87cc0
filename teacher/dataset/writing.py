"""Writing a dataset: Parquet shards of latents and text embeddings that survive a kill at any moment."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import torch
from torch import Tensor

from fewstep.teacher.dataset.listing import ITEMS_FILE, read_listing, write_listing
from fewstep.teacher.dataset.manifest import MANIFEST_FILE, Manifest, Shard, Skip, TensorLayout, read_manifest
from fewstep.teacher.dataset.partial_shard import (
    PartialShard,
    Record,
    keep_begun,
    partial_shard_metadata,
    partial_shard_path,
)
from fewstep.teacher.dataset.shard_records import (
    keep_record,
    missing_shards,
    reopened,
    shard_path,
    with_recorded_shards,
)
from fewstep.teacher.files.atomic import ELSEWHERE, check_writable, whole_file
from fewstep.teacher.files.checksums import sha256
from fewstep.teacher.files.shared_folder import only_writers, wait_until_seen
from fewstep.teacher.files.text_files import first_few
from fewstep.teacher.interrupts import RESUME, Signals, Stop, noted_signals, requested_stop
from fewstep.teacher.ranks import ALONE, ProcessEnded, Ranks

REPORT = "skipped.jsonl"
_ROWS_PER_GROUP = 16  # what a reader holds in memory of each shard


@dataclass(frozen=True)
class DatasetRow:
    """One clip or prompt: its tensors as the manifest lays them out, and its noise's seed, if any."""

    id: str
    caption: str
    tensors: dict[str, Tensor] = field(repr=False)
    seed: int | None = None


class Source(Protocol):
    """What a dataset is made from; the same item gives the same row whenever it is asked."""

    def rows(self, items: range) -> Iterable[DatasetRow | Skip]:
        """One DatasetRow or Skip per item, in order."""


def write_dataset(
    folder: Path,
    plan: Manifest,
    unconditional: DatasetRow | None,
    source: Source,
    advance: Callable[[], None] = lambda: None,
    left_out: Sequence[Skip] = (),
    elsewhere: str = ELSEWHERE,
    ranks: Ranks = ALONE,
) -> Manifest:
    """Makes every shard of the plan that is not there yet, and returns the finished manifest.

    A shard is written whole or not at all, so a killed run resumes where it stopped when called again with the same
    plan. All `ranks` call it and make whole shards; the dataset is the same however many they are. In the first,
    `advance` is called after every item made. `left_out` are lines for the report beyond the items that were skipped;
    `elsewhere` says how another folder is chosen. Raises ValueError when the folder is in use by another command, was
    begun with another plan, or is not the same for all ranks; OSError when the disk is full; Stop when a signal asked
    to stop. No finished shard is lost, and by a stop no finished batch.
    """
    check_writable(folder, elsewhere)
    with only_writers(folder, ranks, elsewhere), noted_signals() as signals:
        # the first process alone keeps the manifest; the others write shards that it collects
        manifest = _begin(folder, plan, unconditional, elsewhere) if ranks.first else None
        writing = _Writing(folder, plan, source, ranks, signals, _Progress(ranks, advance), manifest)
        try:
            writing.run()
        except Stop as stop:
            stop.kept = f"{writing.num_done} of the {plan.items} items of {folder} are done; {RESUME}"
            raise
        if writing.manifest is not None:
            _write_report(folder, [*writing.manifest.skipped, *left_out])
        with signals.raising_stop():
            ranks.wait()
    return writing.manifest or _finished(folder, ranks)


class _Progress:
    """What all processes make, shown by the first."""

    def __init__(self, ranks: Ranks, advance: Callable[[], None]) -> None:
        self._ranks, self._made, self._advance, self._seen = ranks, ranks.tally(), advance, 0

    def add(self, items: int = 0) -> None:
        """This many items were made here."""
        try:
            made = self._made.add(items)
        except (ProcessEnded, Stop):  # what was made is kept before that is raised again
            return
        if self._ranks.first:
            for _ in range(made - self._seen):
                self._advance()
        self._seen = made


@dataclass
class _Writing:
    """A dataset that is being written; `manifest` is kept by the first process alone."""

    folder: Path
    plan: Manifest
    source: Source
    ranks: Ranks
    signals: Signals
    progress: _Progress
    manifest: Manifest | None

    def run(self) -> None:
        """Makes what is missing, and returns once all of it is there."""
        with self.signals.raising_stop():
            # all processes must mean the same dataset, before one of them makes a shard of another
            first_plan = self.ranks.from_first(lambda: self.plan.model_dump(mode="json"))
            self.plan.check_shared(Manifest.model_validate(first_plan))
            missing = self.ranks.from_first(self._missing)
        # whole shards are dealt out, each to whichever process is free
        for number in self.ranks.deal(missing):
            self._make(number)
            self._collect()
        with self.signals.raising_stop():
            self.ranks.wait(self._collect)
            if self.manifest is not None:
                wait_until_seen(self._collect, self.folder, self.ranks)

    @property
    def num_done(self) -> int:
        """Items that no later call makes again."""
        shares = [(shard_path(self.folder, n), self.plan.share(n)) for n in range(self.plan.num_shards)]
        size = _batch_size(self.source)
        return sum(len(items) if path.exists() else len(PartialShard(path, size)) for path, items in shares)

    def _missing(self) -> list[int]:
        assert self.manifest is not None
        self.manifest = reopened(self.folder, self.manifest)
        missing = missing_shards(self.folder, self.manifest)
        for number in set(range(len(self.manifest.shards), self.plan.num_shards)) - set(missing):  # made out of turn
            self.progress.add(len(self.plan.share(number)))
        return missing

    def _make(self, number: int) -> None:
        path, items = shard_path(self.folder, number), self.plan.share(number)
        with closing(self._made(path, items)) as made:
            shard = _write_shard(path, made, self.plan.tensors, len(items), self.ranks)
        keep_record(path, shard)
        partial_shard_path(path).unlink(missing_ok=True)

    def _made(self, path: Path, items: range) -> Generator[Record | Skip, None, None]:
        """The items of a shard: what is there of it, then the source's, until a signal asks to stop or another process
        has ended."""
        # what an interrupted call has made of this shard comes first, so that no batch is made twice
        begun = PartialShard(path, _batch_size(self.source))
        for item in begun:
            yield item
            self.progress.add(1)
        rows = iter(self.source.rows(items[len(begun) :]))
        try:
            # None: the source is done, or a request to stop has cut its next item short
            while not self.ranks.ended() and (made := self.signals.attempt(lambda: next(rows, None))) is not None:
                yield made if isinstance(made, Skip) else _record(made, self.plan.tensors)
                self.progress.add(1)
        finally:
            if isinstance(rows, Generator):
                rows.close()  # threads that read ahead begin no further item

    def _collect(self) -> bool:
        """Brings the first process's manifest up to date; whether it is finished."""
        self.progress.add()
        if self.manifest is None:
            return False
        self.manifest = with_recorded_shards(self.folder, self.manifest)
        return self.manifest.complete


def _finished(folder: Path, ranks: Ranks) -> Manifest:
    """The manifest that the first process has finished."""
    wait_until_seen(lambda: read_manifest(folder).complete, folder, ranks)
    return read_manifest(folder)


def usable_line(folder: Path, manifest: Manifest) -> str | None:
    """How many of a dataset's clips could be used, where some could not, and where the reasons are."""
    if not manifest.skipped:
        return None
    clips = f"{manifest.rows} of {manifest.num_done} clips usable"
    return f"{clips}, {len(manifest.skipped)} skipped: {folder / REPORT}"


def check_dataset_folder(folder: Path) -> None:
    """Raises ValueError for a folder that holds files other than a dataset's, among which shards would get lost."""
    if (folder / MANIFEST_FILE).is_file():
        read_manifest(folder)
    elif folder.is_dir():
        known = {"unconditional.parquet", ITEMS_FILE, *(path.name for path in folder.glob("shard-*.parquet"))}
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others := [name for name in others if name not in known]:
            raise ValueError(
                f"{folder} holds files other than a dataset's, such as {first_few(others)}: choose another folder with "
                "--out"
            )


def _begin(folder: Path, plan: Manifest, unconditional: DatasetRow | None, elsewhere: str) -> Manifest:
    """The manifest of the run this one continues, or a new one."""
    begun = existing_manifest(folder, elsewhere)
    # same plan, same items, or an error; captions that fit no video may have changed
    if begun is not None:
        plan.continues(begun, folder, elsewhere)
        begun = begun.model_copy(update={"unmatched": plan.unmatched})
    begun = begun or plan
    path = folder / "unconditional.parquet"
    # the unconditional branch is the same for all rows: kept once, next to the shards
    if unconditional is not None and not (begun.unconditional and path.exists()):
        shard = _write_shard(path, [_record(unconditional, plan.tensors)], plan.tensors)
        begun = begun.model_copy(update={"unconditional": shard})
    # older datasets have no listing, and new ones none yet
    if read_listing(folder, plan.items_sha256) is None:
        write_listing(folder, plan.listing)
    begun.write(folder)
    return begun


def existing_manifest(folder: Path, elsewhere: str = ELSEWHERE) -> Manifest | None:
    """The manifest of a dataset that was begun in the folder, None where none was.

    Raises ValueError when it cannot be read, or its shards are there without it.
    """
    if (folder / MANIFEST_FILE).exists():
        return read_manifest(folder)
    if any(folder.glob("shard-*.parquet")):
        raise ValueError(f"{folder} holds shards and no {MANIFEST_FILE}: {elsewhere}, or empty it")
    return None


def _write_shard(
    path: Path,
    made: Iterable[Record | Skip],
    tensors: dict[str, TensorLayout],
    num_items: int = 1,
    ranks: Ranks = ALONE,
) -> Shard:
    """Writes what was made of a shard. Raises Stop, or as `Ranks.check`, where that are fewer items; they wait for the
    next call."""
    schema = pa.schema(
        [("id", pa.string()), ("caption", pa.string()), ("seed", pa.int64())]
        + [(name, pa.binary()) for name in tensors]
    )
    items: list[Skip | None] = []
    # Latents are noise to a compressor, and every dictionary or statistic of them would be dead weight.
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with whole_file(path) as part:
        with part.open("wb") as file, pq.ParquetWriter(file, schema, **plain) as writer:
            for group in _groups(_unskipped(made, items)):
                writer.write_table(pa.Table.from_pylist(group, schema))
            # cut short by a signal or another process's end: what was made is kept next to the shard for the next call
            is_cut = len(items) < num_items and bool(requested_stop() or ranks.ended())
            if is_cut:
                writer.add_key_value_metadata(partial_shard_metadata(items))
        if is_cut:
            keep_begun(part, path)
            ranks.check()
            raise Stop(requested_stop())
    skipped = tuple(item for item in items if item is not None)
    return Shard(name=path.name, rows=items.count(None), sha256=sha256(path), skipped=skipped)


def _batch_size(source: Source) -> int:
    """Items that a source makes together, whose rows may depend on one another in their last bits."""
    return getattr(source, "batch_size", 1)


def _unskipped(made: Iterable[Record | Skip], items: list[Skip | None]) -> Iterator[Record]:
    """Yields rows only; `items` gets every item: the skip, or None for one that was not skipped."""
    for item in made:
        items.append(item if isinstance(item, Skip) else None)
        if not isinstance(item, Skip):
            yield item


def _groups(records: Iterator[Record]) -> Iterator[list[Record]]:
    while group := list(islice(records, _ROWS_PER_GROUP)):
        yield group


def _record(row: DatasetRow, tensors: dict[str, TensorLayout]) -> Record:
    stored = {name: _bytes(row, name, layout) for name, layout in tensors.items() if name in row.tensors}
    return {"id": row.id, "caption": row.caption, "seed": row.seed, **stored}


def _bytes(row: DatasetRow, name: str, layout: TensorLayout) -> bytes:
    tensor = row.tensors[name]
    sizes = zip(tensor.shape, layout.shape, strict=True)
    assert all(wanted in (None, size) for size, wanted in sizes), f"{name} is {tuple(tensor.shape)}"
    # before the cast and after it: the teacher may fail, and float16 may be too narrow for what it made
    if not tensor.isfinite().all():
        raise ValueError(
            f"{row.id}: {name} holds NaN or infinite numbers, so the teacher failed on it: "
            "use less guidance, or float32 (--dtype of `fewstep data`, precision in a recipe)"
        )
    stored = tensor.detach().to("cpu", getattr(torch, layout.dtype))
    if not stored.isfinite().all():
        raise ValueError(f"{row.id}: {name} leaves the range of {layout.dtype}: use `fewstep data --store float32`")
    return stored.contiguous().numpy().tobytes()


def _write_report(folder: Path, skipped: Sequence[Skip]) -> None:
    """One line of JSON for all that was left out; no file when nothing was."""
    lines = [skip.model_dump_json() + "\n" for skip in skipped]
    (folder / REPORT).unlink(missing_ok=True)
    if lines:
        with whole_file(folder / REPORT) as part:
            part.write_bytes("".join(lines).encode())
