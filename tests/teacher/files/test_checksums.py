"""A file is read once for its checksum, and again when it has changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from fewstep.teacher.files import checksums


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads, digest = tmp_path / "weights", list[Path](), checksums._digest

    def counted(path: Path) -> str:
        reads.append(path)
        return digest(path)

    monkeypatch.setattr(checksums, "_digest", counted)
    path.write_bytes(b"one")
    one = hashlib.sha256(b"one").hexdigest()
    assert [checksums.sha256(path), checksums.sha256(path)] == [one, one]
    assert len(reads) == 2  # what was just written may change again within the clock's grain
    os.utime(path, (1e9, 1e9))
    assert [checksums.sha256(path), checksums.sha256(path)] == [one, one] and len(reads) == 3
    path.write_bytes(b"two")
    assert checksums.sha256(path) == hashlib.sha256(b"two").hexdigest()
    os.utime(path, (1e9, 1e9 + 1))
    assert checksums.sha256(path) == hashlib.sha256(b"two").hexdigest()
