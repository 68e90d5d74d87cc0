"""Checksums of files, each taken once in a process: checks before work and the work itself ask for the same ones."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_RESOLVED = 2.0  # seconds after which a change of a file shows in its time of change, on any file system


def sha256(path: Path) -> str:
    """Hex digest of a file; taken again when its size or time of change is another one."""
    stat = path.stat()
    if time.time() - stat.st_mtime < _RESOLVED:
        return _digest(path)
    return _known(path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


def sha256_of_all(files: Iterable[Path]) -> str:
    """Hex digest of several files, in this order."""
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


@cache
def _known(path: Path, size: int, changed: int, place: int) -> str:
    return _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
