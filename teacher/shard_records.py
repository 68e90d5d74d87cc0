"""What is known of whole shards that the manifest does not list yet: several processes make shards, and the first one
alone writes the manifest, in order."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fewstep.teacher.atomic import whole_file
from fewstep.teacher.manifest import Manifest, Shard


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{number:05d}.parquet"


def keep_record(path: Path, shard: Shard) -> None:
    """Says, beside a shard that is whole, what the manifest is to say of it."""
    with whole_file(_record_path(path)) as part:
        part.write_text(shard.model_dump_json())


def drop_lost_records(folder: Path) -> None:
    """Forgets shards that were taken away."""
    for record in folder.glob(".shard-*.made.json"):
        if not (folder / f"{record.name[1:].partition('.')[0]}.parquet").exists():
            record.unlink(missing_ok=True)


def missing_shards(folder: Path, manifest: Manifest) -> list[int]:
    """The shards that are yet to be made, in order."""
    listed = len(manifest.shards)
    paths = [shard_path(folder, number) for number in range(manifest.num_shards)]
    return [n for n, path in enumerate(paths) if not (path.exists() and (n < listed or _read_record(path)))]


def collected(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with all that is known of its shards, as far as none is missing between them; it is written where
    that is news."""
    shards, records = list(manifest.shards), list[Path]()
    for record in sorted(folder.glob(".shard-*.made.json")):
        number = int(record.name.removeprefix(".shard-").partition(".")[0])
        found = _read_record(shard_path(folder, number))
        if found is None or number > len(shards):
            continue
        shards[number : number + 1] = [found]
        records.append(record)
    if not records:
        return manifest
    manifest = manifest.model_copy(update={"shards": tuple(shards)})
    manifest.write(folder)
    for record in records:
        record.unlink(missing_ok=True)
    return manifest


def _record_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.made.json")


def _read_record(path: Path) -> Shard | None:
    """None where there is none that can be read."""
    try:
        return Shard.model_validate_json(_record_path(path).read_bytes())
    except (OSError, ValidationError):
        return None
