"""Files that appear under their name only when they are whole and on the disk, or not at all."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fewstep.teacher.causes import causes
from fewstep.teacher.interrupts import deferring_stop

ELSEWHERE = "choose another --out"
_LOCK = ".lock"
_NO_ROOM = {  # why nothing more could be written -> what a user reads
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the file system or `ulimit -f` allows",
}


@contextmanager
def whole_file(path: Path, replaced: Path | None = None) -> Iterator[Path]:
    """A path next to `path`, with its suffix, to write to; once that has succeeded it takes the name `path`.

    Whatever happens, `path` is the old file or the new one, and a request to stop waits until it is. What a killed
    process leaves behind is written over by the next one, so two must not write the same file at a time. The old file,
    which must be there, keeps the name `replaced` if given: a kill between the two renames leaves it alone. Raises
    OSError naming `path` when there is no room for it.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    with deferring_stop():
        try:
            with disk_full_as_oserror(path):
                yield part
                # on the disk before it gets its name, and the name before this returns: a power cut leaves either file
                with part.open("r+b") as file:
                    os.fsync(file.fileno())
                if replaced is not None:
                    os.replace(path, replaced)
                os.replace(part, path)
                sync_folder(path.parent)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def disk_full_as_oserror(path: Path) -> Iterator[None]:
    """Whatever a library raises inside the block because the disk is full becomes an OSError that names `path`."""
    try:
        yield
    except Exception as error:
        reason = disk_full_errno(error)
        if reason is None:
            raise
        raise OSError(reason, os.strerror(reason), str(path)) from error


def disk_full_errno(error: BaseException) -> int | None:
    """The errno of a full disk, a used-up quota or a file that grew too large, if that is what an error comes from.

    torch, safetensors and PyAV have errors of their own, with the system's in their cause, context or text.
    """
    # libraries wrap the system's error, or keep nothing but its text
    for cause in causes(error):
        for reason in _NO_ROOM:
            if getattr(cause, "errno", None) == reason or os.strerror(reason) in str(cause):
                return reason
    return None


def disk_full_sentence(error: BaseException) -> str | None:
    """What went wrong where, and what to do, for an error that `disk_full_errno` knows; None for others."""
    reason = disk_full_errno(error)
    if reason is None:
        return None
    named = next((c for c in causes(error) if isinstance(c, OSError) and c.errno == reason and c.filename), None)
    where = f"{named.filename} could not be written: " if named else ""
    remedy = "raise the limit" if reason == errno.EFBIG else "make room"
    return f"{where}{_NO_ROOM[reason]}; {remedy} and run the same command again to resume"


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest above it that is there: what is below would be made."""
    there = folder.absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    return there


def check_writable(folder: Path, elsewhere: str = ELSEWHERE) -> None:
    """Raises ValueError unless files can be written into `folder`, which need not be there yet.

    `elsewhere` says how another folder is chosen, with the options that the command has.
    """
    there = nearest_existing(folder)
    if there.is_symlink() and not there.exists():
        raise ValueError(f"{there} is a link to {there.readlink()}, which is not there: make it, or {elsewhere}")
    if not there.is_dir():
        raise ValueError(f"{folder} cannot be a folder, since {there} is a file: {elsewhere}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{there} cannot be written into: allow it, or {elsewhere}")


def check_writable_file(path: Path, suffixes: Sequence[str], elsewhere: str = ELSEWHERE) -> None:
    """Raises ValueError unless the file `path` has one of these suffixes and can be written or replaced.

    Its folder need not be there yet.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and a file is to be written: {elsewhere}")
    if path.suffix.lower() not in suffixes:  # a recipe or a list of prompts is not written over by mistake
        raise ValueError(f"{path} does not end in {' or '.join(suffixes)}: {elsewhere}")
    check_writable(path.absolute().parent, elsewhere)


@contextmanager
def only_writer(folder: Path, elsewhere: str = ELSEWHERE) -> Iterator[None]:
    """Keeps other processes out of an existing folder; the system lifts the lock however this one dies.

    Raises ValueError, naming the process, when another one is in it.
    """
    with _lock(folder, elsewhere) as path:
        with disk_full_as_oserror(path):
            path.write_text(f"{os.getpid()} on {socket.gethostname()}\n")
        yield


@contextmanager
def _lock(folder: Path, elsewhere: str) -> Iterator[Path]:
    """The lock's file, once it is held."""
    path = folder / _LOCK
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process is writing {folder}: wait for {_holder(folder)}, or {elsewhere}") from None
    try:
        yield path
    finally:
        lock.release()


def lock_of(folder: Path) -> str:
    """What the last process that locked the folder wrote there; nothing where that cannot be read."""
    try:
        return (folder / _LOCK).read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _holder(folder: Path) -> str:
    """Who wrote itself into a folder's lock, in words; `it` where that cannot be read."""
    owner = lock_of(folder)
    return f"process {owner.strip()}" if re.fullmatch(r"\d+ on [\w.-]+\n", owner) else "it"


def check_unlocked(folder: Path, elsewhere: str = ELSEWHERE) -> None:
    """Raises ValueError when another process is writing the folder, which need not be there; changes nothing."""
    if (folder / _LOCK).exists():
        with _lock(folder, elsewhere):
            pass


def sync_tree(folder: Path) -> None:
    """Brings everything in a folder to the disk, before it takes a name that says that it is whole."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as written:
                os.fsync(written.fileno())


def sync_folder(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    if os.name == "posix":  # without it, a power cut may undo the rename
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
