"""A stage in the middle of its training, on disk: everything that a resume needs to go on bit for bit.

Networks that every process holds whole are a single file, which the main one writes. Sharded ones are a folder, which
all of them write (sharded_checkpoint.py). Either is read by any number of processes, sharded or not. The last two of
either kind are kept.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from fewstep.distill import sharded_checkpoint as sharded
from fewstep.distill.checkpoint_numbers import check_numbers
from fewstep.distill.settings import conversion_name
from fewstep.teacher.files.atomic import whole_file

STATE_FILE = "state.pt"
PREVIOUS = "previous.pt"  # the one before
HEALTHY_FILE = "healthy.pt"  # the last one at which nothing was wrong with the student


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the run's checkpoint, whole or not at all; the one that it replaces is the previous one from then on.

    There are never more than two, also while one is written, and never none.
    """
    newest, previous = folder / STATE_FILE, folder / PREVIOUS
    keep = _is_before(folder, state)
    # the previous one goes first, so that there are never three; where there is no newest one, it is all there is
    if newest.exists():
        previous.unlink(missing_ok=True)
    _write(newest, state, previous if keep else None)
    sharded.forget_steps(folder)  # of before


def save_healthy(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the last checkpoint at which nothing was wrong, whole or not at all."""
    _write(folder / HEALTHY_FILE, state)
    sharded.forget_healthy(folder)  # of before


def _write(path: Path, state: dict[str, Any], replaced: Path | None = None) -> None:
    """What it replaces stays as `replaced`, if given."""
    with whole_file(path, replaced) as part, part.open("wb") as file:  # without `open` torch hides that a disk is full
        torch.save(state, file)


def load_state(folder: Path, stage: str | None, name: str = STATE_FILE, mmap: bool = False) -> dict[str, Any] | None:
    """The checkpoint of this stage, or of any, in a single file; None when there is none or it is of another stage.

    The last one, or the previous one where it is gone. With `mmap` tensors are read only when they are used: enough to
    see whether the file is whole.

    Raises ValueError for a file that is broken; it holds tensors and numbers only and never runs code.
    """
    path = folder / name
    # a stop between the two renames of a save leaves only the previous one
    if name == STATE_FILE and not path.exists():
        path = folder / PREVIOUS
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
        if stage not in (state["stage"], None):
            return None
        check_numbers(state)
    except UnpicklingError as error:
        reason = "it holds more than tensors and numbers, or is cut off"
        raise ValueError(_broken(path, stage, reason)) from error
    except Exception as error:  # a file may be damaged in any way, and torch raises a dozen kinds for it
        reason = str(error).strip().split("\n")[0].split(". This is")[0][:200]
        raise ValueError(_broken(path, stage, reason or type(error).__name__)) from error
    return state


def check_tensors(state: dict[str, Any]) -> None:
    """Raises ValueError when weights, averages or what optimizers remember are not finite, or no tensors."""
    for part in ("student", "average", "modules", "optimizers"):
        waiting = [(part, state[part])]
        while waiting:
            place, value = waiting.pop()
            if isinstance(value, dict):
                waiting += [(f"{place}.{name}", below) for name, below in value.items()]
            elif isinstance(value, torch.Tensor):
                if value.layout != torch.strided or not bool(torch.isfinite(value).all()):
                    raise ValueError(f"{place} holds numbers that are not finite")
            elif part in ("student", "average"):
                raise ValueError(f"{place} is no tensor")


def _broken(path: Path, stage: str | None, reason: str) -> str:
    others = path.name == STATE_FILE and path.with_name(PREVIOUS).exists()
    whose = "its stage" if stage is None else f"the stage {stage}"
    remedy = "resume from the checkpoint before it" if others else f"begin {whose} again"
    return f"{path} is broken ({reason}): delete it to {remedy}"


def _is_before(folder: Path, state: dict[str, Any]) -> bool:
    """Whether the last checkpoint is of the same stage as `state`, and of an earlier step."""
    try:
        last = load_state(folder, state["stage"], mmap=True) if (folder / STATE_FILE).exists() else None
    except ValueError:
        return False
    return last is not None and last["step"] < state["step"]


def single_files(folder: Path) -> list[Path]:
    """The run's last checkpoints that are a single file, the newest first."""
    return [path for name in (STATE_FILE, PREVIOUS) if (path := folder / name).exists()]


def forget_checkpoints(folder: Path) -> None:
    """Deletes every checkpoint of the run."""
    for path in (*single_files(folder), folder / HEALTHY_FILE):
        path.unlink(missing_ok=True)
    sharded.forget_all(folder)


def has_checkpoint(folder: Path) -> bool:
    """Whether some stage of the run is in the middle of its training."""
    return bool(single_files(folder)) or (folder / sharded.STATE_FOLDER).is_dir()


def unfinished_parts(folder: Path) -> set[str]:
    """The stages, and conversions, that the run's checkpoints are of: usually one. Raises ValueError for a checkpoint
    that is broken."""
    state = load_state(folder, None, mmap=True)  # which takes a while: thousands of tensors, if not their numbers
    return sharded.parts(folder) | (set() if state is None else {state["stage"]})


def is_unfinished(stage: str, parts: Collection[str]) -> bool:
    """Whether a stage is in the middle of its training, or of its conversion, going by `unfinished_parts`."""
    return stage in parts or conversion_name(stage) in parts


def forget_state(folder: Path, stage: str) -> None:
    """Deletes this stage's checkpoints; another stage's stay, and broken ones go."""
    for name in (STATE_FILE, PREVIOUS, HEALTHY_FILE):
        try:
            state = load_state(folder, stage, name)
        except ValueError:
            state = {}
        if state is not None:  # in place of a missing STATE_FILE that of PREVIOUS was read
            (folder / name).unlink(missing_ok=True)
    sharded.forget(folder, stage)
