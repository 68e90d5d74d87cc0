"""A stage in the middle of its training, on disk: everything that a resume needs to go on bit for bit.

Networks that every process holds whole are a single file, which the main one writes. Sharded ones are a folder, which
all of them write (sharded_checkpoint.py). Either is read by any number of processes, sharded or not.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from fewstep.distill import sharded_checkpoint as sharded
from fewstep.teacher.atomic import whole_file

FILE_NAME = "state.pt"
HEALTHY = "healthy.pt"  # the last one at which nothing was wrong with the student


def save_state(folder: Path, state: dict[str, Any], name: str = FILE_NAME) -> None:
    """Replaces the run's checkpoint, whole or not at all."""
    with (
        whole_file(folder / name) as part,
        part.open("wb") as file,
    ):  # open: else a full disk is a riddle of torch's
        torch.save(state, file)
    if name == FILE_NAME:
        sharded.forget_all(folder)  # of before


def load_state(folder: Path, stage: str, name: str = FILE_NAME, mmap: bool = False) -> dict[str, Any] | None:
    """The checkpoint of this stage in a single file, None when there is none or it is of another stage.

    With `mmap` tensors are read only when they are used: enough to see whether the file is whole.

    Raises ValueError for a file that is broken; it holds tensors and numbers only and never runs code.
    """
    path = folder / name
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
        return state if state["stage"] == stage else None
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError, UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is broken ({reason}): delete it to begin the stage {stage} again") from error


def forget_state(folder: Path, stage: str) -> None:
    """Deletes this stage's checkpoints; another stage's stay, and broken ones go."""
    for name in (FILE_NAME, HEALTHY):
        try:
            found = load_state(folder, stage, name)
        except ValueError:
            found = {}
        if found is not None:
            (folder / name).unlink()
    sharded.forget(folder, stage)
