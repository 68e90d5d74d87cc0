"""Safetensors files looked at by their headers alone: whether they are whole, and the shapes of what they hold."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from fewstep.teacher.files.json_text import parse_json

Shapes = dict[str, tuple[int, ...]]

RESTORE = "download it again"
_LENGTH = 8  # bytes in front of the header that state its length, little-endian
_LFS = b"version https://git-lfs"


def tensor_shapes(path: Path, remedy: str = RESTORE) -> Shapes:
    """Name -> shape of every tensor in a safetensors file, of which only the header is read.

    Raises ValueError, with what is wrong and `remedy`, for a file that is missing, empty, cut off or no safetensors.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} {fault(path, error)}: {remedy}") from error


def check_text_file(path: Path, remedy: str = RESTORE) -> None:
    """Raises ValueError for a vocabulary or config that is empty or a git-lfs pointer, and for a .json that is none."""
    try:
        content = path.read_bytes()
        fault = _placeholder(content[:100], len(content))
        if fault is None and path.suffix == ".json":
            parse_json(content)
    except (OSError, ValueError) as error:
        fault = f"cannot be read ({error})"
    if fault is not None:
        raise ValueError(f"{path} {fault}: {remedy}")


def read_index(path: Path, remedy: str = RESTORE) -> dict[str, list[str]]:
    """Shard -> names of its tensors, as a *.safetensors.index.json says. Raises ValueError when it does not."""
    check_text_file(path, remedy)
    try:
        shards: dict[str, list[str]] = {}
        for tensor, shard in parse_json(path.read_text("utf-8"))["weight_map"].items():
            shards.setdefault(str(shard), []).append(tensor)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} has no weight_map, so nothing says which files hold the weights: {remedy}") from error
    return shards


def fault(path: Path, error: Exception) -> str:
    """What is wrong with a file that safetensors refuses with this error, to stand behind the file's name."""
    # a link of the hub's cache may point to a file that was deleted
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which is not there"
    if not path.is_file():
        return "is missing" if not path.exists() else "is no file"
    # a safetensors file: the header's length in 8 bytes, the header, the tensors one behind the other
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(start := file.read(_LENGTH), "little")
        start += file.read(100)
        file.seek(_LENGTH)
        header = file.read(length) if length <= size else b""
    if (placeholder := _placeholder(start, size)) is not None:
        return placeholder
    # a header that begins as one and does not end
    if size < _LENGTH or (start[_LENGTH : _LENGTH + 1] == b"{" and size < _LENGTH + length):
        return f"is cut off within its header, after {size:,} bytes"
    # the last tensor's end says how long the whole file must be
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in parse_json(header).items() if name != "__metadata__"]
        whole = _LENGTH + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"is not a safetensors file ({error})"
    if size < whole:
        return f"is cut off: {size:,} of {whole:,} bytes"
    if size > whole:
        return f"is longer than its header says: {size:,} bytes, not {whole:,}"
    return f"is damaged ({error})"


def _placeholder(start: bytes, size: int) -> str | None:
    """What stands in place of the file itself, as its first bytes show; None where it may be the file."""
    if size == 0:
        return "is empty"
    if start.startswith(_LFS):
        return "is a git-lfs pointer in place of the file, which `git lfs pull` fetches"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page in place of the file"
    return None
