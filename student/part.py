"""A part of a network that alone was trained, on disk: its tensors by their names in the network."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fewstep.teacher.bases import Kinds, part_names, part_state, shared_copy
from fewstep.teacher.pipelines.weight_files import tensor_shapes

PART_FILE = "part.safetensors"


def is_part(folder: Path) -> bool:
    """Whether the folder holds a part of a network rather than a whole one."""
    return (folder / PART_FILE).is_file()


def part_parameters(network: nn.Module, kinds: Kinds) -> dict[str, nn.Parameter]:
    """The parameters of the modules of these classes, by their names in the network."""
    inside = tuple(f"{name}." for name in part_names(network, kinds))
    return {name: p for name, p in network.named_parameters() if name.startswith(inside)}


def save_part(network: nn.Module, kinds: Kinds, folder: Path) -> None:
    """Writes the tensors of the modules of these classes."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in part_state(network, kinds).items()}
    save_file(state, folder / PART_FILE, {"format": "pt"})


def load_part(like: nn.Module, folder: Path, dtype: torch.dtype) -> nn.Module:
    """`like` with the folder's part in it, in `dtype`, frozen; all other tensors are `like`'s own.

    Raises ValueError when the file is broken, or of another network.
    """
    path = folder / PART_FILE
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): restore it, or train the student again") from error
    check_student_part(like, folder, "restore it, or train the student again")
    network = shared_copy(like, state.keys())
    # tensors of these names are copies, so the base's own stay as they are
    own = network.state_dict(keep_vars=True)
    for name, tensor in state.items():
        own[name].data = tensor.to(own[name].device, dtype if tensor.is_floating_point() else None)
    return network.requires_grad_(False)


def check_student_part(like: nn.Module, folder: Path, remedy: str) -> None:
    """Raises ValueError, with `remedy`, when the folder's part is cut off or of another network than `like`, which may
    have no weights; only the file's header is read."""
    path, own = folder / PART_FILE, {name: tuple(x.shape) for name, x in like.state_dict().items()}
    for name, shape in tensor_shapes(path, remedy).items():
        if own.get(name) != shape:
            raise ValueError(f"{path} is of another network than {type(like).__name__} (see {name}): {remedy}")
