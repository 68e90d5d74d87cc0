"""What is known of whole shards that the manifest does not list yet: several processes make shards, and the first one
alone writes the manifest, in order."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fewstep.teacher.dataset.manifest import Manifest, Shard
from fewstep.teacher.files.atomic import whole_file


def shard_path(folder: Path, number: int) -> Path:
    """Where a shard lies."""
    return folder / f"shard-{number:05d}.parquet"


def keep_record(path: Path, shard: Shard) -> None:
    """Says, next to a shard that is whole, what the manifest is to say of it."""
    with whole_file(_record_path(path)) as part:
        part.write_text(shard.model_dump_json(), "utf-8")


def reopened(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest as far as none of its shards was taken away; what is there of later ones has records."""
    listed = {shard.name for shard in manifest.shards}
    # a record has done its work once its shard is listed, and means nothing once that is gone
    for record in folder.glob(".shard-*.made.json"):
        shard_of = folder / record.name.removeprefix(".").replace(".made.json", ".parquet")
        if shard_of.name in listed or not shard_of.exists():
            record.unlink()
    whole = next((n for n, shard in enumerate(manifest.shards) if not (folder / shard.name).exists()), None)
    if whole is None:
        return manifest
    # the manifest lists shards in order: whole ones behind a missing one wait as records
    for shard in manifest.shards[whole:]:
        if (folder / shard.name).exists():
            keep_record(folder / shard.name, shard)
    manifest = manifest.model_copy(update={"shards": manifest.shards[:whole]})
    manifest.write(folder)
    return manifest


def missing_shards(folder: Path, manifest: Manifest) -> list[int]:
    """The shards that are neither listed nor have records, in order."""
    rest = range(len(manifest.shards), manifest.num_shards)
    return [number for number in rest if _read_record(shard_path(folder, number)) is None]


def with_recorded_shards(folder: Path, manifest: Manifest) -> Manifest:
    """The manifest with the shards that have records, up to the first that has none; it is written where it grew."""
    shards: list[Shard] = []
    while shard := _read_record(shard_path(folder, len(manifest.shards) + len(shards))):
        shards.append(shard)
    if not shards:
        return manifest
    manifest = manifest.model_copy(update={"shards": (*manifest.shards, *shards)})
    manifest.write(folder)
    # after the manifest: a kill in between leaves records of listed shards, which `reopened` removes
    for shard in shards:
        _record_path(folder / shard.name).unlink()
    return manifest


def _record_path(path: Path) -> Path:
    return path.with_name(f".{path.stem}.made.json")


def _read_record(path: Path) -> Shard | None:
    """None where there is none that can be read."""
    try:
        return Shard.model_validate_json(_record_path(path).read_bytes())
    except (OSError, ValidationError):
        return None
