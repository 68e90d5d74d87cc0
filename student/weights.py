"""A student's weights on disk: a LoRA adapter, or a whole network as diffusers saves it; of experts a folder each."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from fewstep.student.adapters import ADAPTER_FILE, check_adapter
from fewstep.student.contract import read_contract
from fewstep.student.part import check_student_part, is_part
from fewstep.teacher.bases import shared_copy
from fewstep.teacher.experts import parts_of
from fewstep.teacher.files.checksums import sha256_of_all
from fewstep.teacher.loading import without_bars
from fewstep.teacher.pipelines.empty_parts import check_shapes
from fewstep.teacher.pipelines.parts import weight_shapes
from fewstep.teacher.source import read_json

REMEDY = "restore it, or train the student again"
_CONFIG = "config.json"
_SUFFIXES = {".safetensors", ".gguf", ".onnx", ".data"}  # of files of weights


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter rather than a whole network."""
    return (folder / ADAPTER_FILE).is_file()


def is_whole(folder: Path) -> bool:
    """Whether the folder holds a whole network, which needs nothing of the teacher's: neither an adapter nor a part."""
    return (folder / _CONFIG).is_file() and not is_adapter(folder) and not is_part(folder)


def weights_folder(stage: Path | None, name: str) -> Path | None:
    """Where a stage's folder keeps the weights of its network of this name: in itself, or in one of the expert's.

    None where the network is the teacher's: of no stage, and of an expert that was never trained. Raises ValueError
    when an expert that was trained has no weights.
    """
    if stage is None:
        return None
    folder = stage / name
    if not name or is_adapter(folder) or (folder / _CONFIG).is_file():
        return folder
    # an expert without weights in the folder is the teacher's, unless the contract says that it was trained
    trained = [e.name for e in read_contract(stage).experts if e.trained]
    if name in trained:
        raise ValueError(f"{folder} is missing, the {name} expert's weights: {REMEDY}")
    return None


def copy_weights(start: Path, folder: Path) -> None:
    """Takes a folder's weights over as they are, without a second copy where the disk allows that."""
    for file in start.iterdir():
        if file.is_file():
            try:
                os.link(file, folder / file.name)
            except OSError:  # another disk, or one without links
                shutil.copyfile(file, folder / file.name)


def weights_sha256(path: Path) -> str:
    """One checksum of all weights in a folder, whatever form they have, or of the file of weights itself."""
    files = sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES) if path.is_dir() else [path]
    return sha256_of_all(files)


def check_weights(folder: Path, like: nn.Module, remedy: str = REMEDY) -> None:
    """Raises ValueError when a student's weights are missing, cut off, or do not fit `like`, the teacher's denoiser,
    which may have no weights itself; only headers of files are read."""
    for name, part in parts_of(like).items():
        if (weights := weights_folder(folder, name)) is not None:
            _check_one(weights, part, remedy)


def _check_one(folder: Path, like: nn.Module, remedy: str) -> None:
    if is_adapter(folder):
        check_adapter(like, folder, remedy)
        return
    if is_part(folder):
        check_student_part(like, folder, remedy)
        return
    if not (folder / _CONFIG).is_file():
        raise ValueError(f"{folder / _CONFIG} is missing: {remedy}")
    read_json(folder / _CONFIG)
    check_shapes(folder, like, weight_shapes(folder, "diffusers", remedy), remedy)


def save_config(network: Any, folder: Path) -> None:
    """Writes the config only, without paths of this machine."""
    network.register_to_config(_name_or_path="")
    network.save_config(folder)


def save_network(network: Any, folder: Path, shard: str | None = None) -> None:
    """Writes config and safetensors weights, as plain diffusers reads them, without paths of this machine.

    Files of weights are at most of the size `shard`, as diffusers counts it.
    """
    network.register_to_config(_name_or_path="")
    with without_bars():
        network.save_pretrained(folder, safe_serialization=True, max_shard_size=shard or "10GB")


def load_network(like: Any, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A frozen network of `like`'s class and place with the folder's weights.

    Raises ValueError when they are missing, broken or of another architecture.
    """
    loaded = read_network(like, folder, dtype)
    # with what the family did to it, such as its attention processors; around `like`'s tensors until they are replaced
    network: nn.Module = shared_copy(like)
    network.load_state_dict(loaded.to(like.device).state_dict(), assign=True)
    return network.requires_grad_(False)


def read_network(like: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A network of `like`'s class with the folder's weights, as diffusers makes it, on the CPU; `like` may have no
    weights.

    Raises ValueError when they are missing, broken or of another architecture.
    """
    try:
        with without_bars():
            loaded: Any = type(like).from_pretrained(folder, use_safetensors=True, torch_dtype=dtype)
        # a tensor that no file has may be left on the device meta
        if empty := [name for name, tensor in loaded.named_parameters() if tensor.is_meta]:
            raise ValueError(f"its files hold no {empty[0]}")
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{folder} is no {type(like).__name__} ({reason}): restore it, or train it again") from error
    if _shapes(loaded) != _shapes(like):
        raise ValueError(f"{folder} holds a {type(like).__name__} of another size than the teacher's: not its student")
    return loaded


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
