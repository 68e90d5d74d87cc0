"""Weights of feature networks: files and folders that a user names, or that the hub has."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from fewstep.teacher.files.checksums import sha256
from fewstep.teacher.source import HUB_ID

_REMEDY = "check the name and the network, or download it into the hub's cache first"
_FILE = "name a copy with --fvd-weights, or check the name and the network"


def find_file(source: str | Path, hub_file: str) -> Path:
    """The file at `source`, or `hub_file` of the hub id `source`. Raises ValueError when it cannot be loaded."""
    path = Path(source).expanduser()
    if path.is_dir() and (path / hub_file).is_file():
        return path / hub_file
    if path.is_file():
        return path
    if not re.fullmatch(HUB_ID, str(source)):
        raise ValueError(f"there are no weights at {source}: {_FILE}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(str(source), hub_file))
    except (OSError, EntryNotFoundError) as error:
        raise ValueError(f"{hub_file} of {source} is neither on this disk nor within reach: {_FILE}") from error


def find_weights_folder(source: str | Path) -> Path:
    """A folder with config.json and safetensors: at `source`, or of the hub id. Raises ValueError without one."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _download(str(source))
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ValueError(f"{source} has no config.json with safetensors next to it: save the model as safetensors")
    return folder


def metric_weights_sha256(path: Path) -> str:
    """Of a file, or of all safetensors in a folder."""
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return digest.hexdigest()


def _download(name: str) -> Path:
    if not re.fullmatch(HUB_ID, name):
        raise ValueError(f"there is no folder {name}: {_REMEDY}")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except OSError as error:
        raise ValueError(f"{name} is neither on this disk nor within reach: {_REMEDY}") from error
