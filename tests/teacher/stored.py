"""What a dataset holds, for tests that look at all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.dataset.reader import check_dataset, read_rows


def stored_rows(folder: Path, teacher_sha256: str) -> list[dict[str, Any]]:
    """Every row in the order of writing. Raises ValueError as `check_dataset` does."""
    manifest = read_manifest(folder)
    check_dataset(folder, manifest, teacher_sha256)
    return list(read_rows([str(folder / shard.name) for shard in manifest.shards if shard.rows], manifest.tensors))
