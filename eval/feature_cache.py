"""Features of clips on disk, found by a hash of their whole protocol: a changed one never reuses them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.files.cache_folder import cache_folder

_FEATURES = "features"


def cached_features(protocol: Mapping[str, Any], compute: Callable[[], Tensor], folder: Path | None = None) -> Tensor:
    """Features (M, D) as `compute` makes them, or from disk if it made them by the same protocol before.

    As `cached_tensors`.
    """
    return cached_tensors(protocol, lambda: {_FEATURES: compute()}, folder)[_FEATURES]


def cached_tensors(
    protocol: Mapping[str, Any], compute: Callable[[], dict[str, Tensor]], folder: Path | None = None
) -> dict[str, Tensor]:
    """What was found of clips, by name, as `compute` makes it, or from disk if it made it by the same protocol before.

    `protocol` must hold all that it depends on: the network's, and which clips it is of. `folder` is
    default_folder() if None; a file there that cannot be read, or is of another protocol, is made anew.
    """
    protocol_text, path = canonical(protocol), _file(protocol, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # another evaluation may be making the same
        tensors = _read(path, protocol_text)
        if tensors is None:
            tensors = compute()
            with whole_file(path) as part:
                save_file(
                    {name: x.contiguous() for name, x in tensors.items()}, part, metadata={"protocol": protocol_text}
                )
    return tensors


def read_cached_tensors(protocol: Mapping[str, Any], folder: Path | None = None) -> dict[str, Tensor] | None:
    """What `cached_tensors` would find on disk; None where it is not there."""
    return _read(_file(protocol, folder), canonical(protocol))


def canonical(protocol: Mapping[str, Any]) -> str:
    """The protocol as JSON, the same text for the same content. Raises TypeError for what JSON does not know."""
    return json.dumps(protocol, sort_keys=True, separators=(",", ":"), allow_nan=False)


def default_folder() -> Path:
    """fewstep/features in $XDG_CACHE_HOME, else in ~/.cache."""
    return cache_folder("features")


def _file(protocol: Mapping[str, Any], folder: Path | None) -> Path:
    name = hashlib.sha256(canonical(protocol).encode()).hexdigest()
    return (folder or default_folder()) / f"{name}.safetensors"


def _read(path: Path, protocol_text: str) -> dict[str, Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            if file.metadata().get("protocol") != protocol_text:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
