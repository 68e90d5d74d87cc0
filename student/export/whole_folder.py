"""Exported folders appear under their name only when they are whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fewstep.teacher.files.atomic import check_writable, disk_full_as_oserror, sync_tree
from fewstep.teacher.interrupts import deferring_stop

EXPORT_FILE = "export.json"  # in every exported folder, next to contract.json


@contextmanager
def whole_folder(folder: Path, force: bool = False) -> Iterator[Path]:
    """An empty folder next to `folder` to fill; once that has succeeded it takes the name `folder`.

    What a killed process leaves behind is begun anew by the next one. Raises ValueError as `check_export_folder`, and
    while another process is writing there.
    """
    folder = Path(os.path.realpath(folder))  # of a link what it leads to is replaced
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():  # killed between the two renames below
        os.replace(old, folder)
    check_export_folder(folder, force)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_export(folder):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            with disk_full_as_oserror(folder):
                yield part
                # contents must be on the disk before the name is
                sync_tree(part)
            with deferring_stop():  # a stop between the two would take both
                if folder.exists():
                    shutil.rmtree(old, ignore_errors=True)
                    os.replace(folder, old)
                os.replace(part, folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _only_export(folder: Path) -> Iterator[None]:
    """Keeps other exports to this folder out; nothing of it stays. Raises ValueError when another one is at work."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is writing {folder}: wait for it, or choose another --out") from None
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def check_export_folder(folder: Path, force: bool = False) -> None:
    """Raises ValueError when `folder` cannot be written, or exists; with `force` it may be an export, or empty."""
    check_writable(folder.parent)
    if not folder.exists():
        return
    if not force:
        raise ValueError(f"{folder} is there already: choose another --out, or pass --force to replace it")
    if any(folder.iterdir() if folder.is_dir() else [folder]) and not (folder / EXPORT_FILE).is_file():
        raise ValueError(
            f"{folder} is not an export (it has no {EXPORT_FILE}), so --force leaves it alone: choose another --out"
        )
