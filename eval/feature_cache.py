"""Features of reference clips on disk, found by a hash of their whole protocol: a changed one never reuses them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.teacher.atomic import whole_file


def cached_features(protocol: Mapping[str, Any], compute: Callable[[], Tensor], folder: Path | None = None) -> Tensor:
    """Features (M, D) as `compute` makes them, or from disk if it made them by the same protocol before.

    `protocol` must hold all that they depend on: the network's, and which clips they are of. `folder` is
    default_folder() if None; a file there that cannot be read, or is of another protocol, is made anew.
    """
    told = canonical(protocol)
    path = (folder or default_folder()) / f"{hashlib.sha256(told.encode()).hexdigest()}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # another evaluation may be making the same
        found = _read(path, told)
        if found is None:
            found = compute()
            with whole_file(path) as part:
                save_file({"features": found.contiguous()}, part, metadata={"protocol": told})
    return found


def canonical(protocol: Mapping[str, Any]) -> str:
    """The protocol as JSON, the same text for the same content. Raises TypeError for what JSON does not know."""
    return json.dumps(protocol, sort_keys=True, separators=(",", ":"), allow_nan=False)


def default_folder() -> Path:
    """fewstep/features in $XDG_CACHE_HOME, else in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fewstep" / "features"


def _read(path: Path, told: str) -> Tensor | None:
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("features") if file.metadata().get("protocol") == told else None
    except (OSError, SafetensorError):
        return None
