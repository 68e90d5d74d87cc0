"""Checkpoints that all processes write, each what it holds (torch.distributed.checkpoint): state/step-000120/.

Tensors are safetensors, numbers are JSON: nothing in them runs code. A folder takes its name once all of it is on the
disk, and the last two are kept. Any number of processes can read them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, distributed

from fewstep.distill.checkpoint_numbers import check_numbers
from fewstep.teacher.files.atomic import disk_full_as_oserror, sync_folder, sync_tree
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.interrupts import deferring_stop

STATE_FOLDER = "state"
HEALTHY_FOLDER = "healthy"  # next to the steps: the last one at which nothing was wrong with the student
_NUMBERS = "numbers.json"
_KEPT = 2


def save(
    folder: Path, tensors: Mapping[str, Any], numbers: Mapping[str, Any], healthy: bool = False, group: Any = None
) -> None:
    """Writes nested tensors, of which each process may hold parts, and numbers with "stage" and "step".

    Every process calls it. Checkpoints of other stages and of later steps go, and all but the last two. They speak
    through `group`, by default that of all collective calls: one of its own lets a thread save while others train.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as save_parts

    state, is_main = folder / STATE_FOLDER, distributed.get_rank() == 0
    whole = state / (HEALTHY_FOLDER if healthy else _name_of(numbers))
    part = state / f".{whole.name}.part"
    # written into a hidden folder, which the first process makes before any other writes, and renames after all have
    with deferring_stop(), disk_full_as_oserror(whole), _quiet():
        if is_main:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        distributed.barrier(group)
        # every process writes its own shards, so no tensor is gathered anywhere
        writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
        save_parts(dict(flat(tensors)), storage_writer=writer, process_group=group)
        if is_main:
            (part / _NUMBERS).write_text(json.dumps(dict(numbers)), "utf-8")
            _name(part, whole)
            if not healthy:
                _keep_last(state, numbers)
        distributed.barrier(group)


def find(folder: Path, stage: str, healthy: bool = False) -> Path | None:
    """The last checkpoint of this stage, if there is one."""
    if healthy:
        kept = folder / STATE_FOLDER / HEALTHY_FOLDER
        return kept if (kept / _NUMBERS).is_file() and read_numbers(kept)["stage"] == stage else None
    checkpoints = [path for path in _steps(folder / STATE_FOLDER) if read_numbers(path)["stage"] == stage]
    return checkpoints[-1] if checkpoints else None


def parts(folder: Path) -> set[str]:
    """The stages, and conversions, that there are checkpoints of. Raises ValueError for one that is broken."""
    return {read_numbers(path)["stage"] for path in _steps(folder / STATE_FOLDER)}


def read_numbers(checkpoint: Path) -> dict[str, Any]:
    """All but the tensors. Raises ValueError for a file that is broken."""
    path = checkpoint / _NUMBERS
    try:
        content = dict(parse_json(path.read_text("utf-8")))
        content["stage"]
        check_numbers(content)
        return content
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is broken ({error}): delete {checkpoint} to resume from the checkpoint before it"
        ) from error


def names(checkpoint: Path) -> set[str]:
    """The names of the tensors, as `flat` joins them. Raises ValueError for one that is broken."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    with _broken(checkpoint):
        return set(HuggingFaceStorageReader(str(checkpoint)).read_metadata().state_dict_metadata)


def remembered(checkpoint: Path) -> dict[str, dict[int, dict[str, bool]]]:
    """What optimizers remember in it: group -> parameter's number -> name -> whether that has parts, codes and scales.

    Raises ValueError for one that is broken.
    """
    groups: dict[str, dict[int, dict[str, bool]]] = {}
    for key in names(checkpoint):
        if (of_group := re.fullmatch(r"optimizers/(.+)/state/(\d+)/([^/]+)(/.+)?", key)) is not None:
            group, number, name, part = of_group.groups()
            groups.setdefault(group, {}).setdefault(int(number), {})[name] = part is not None
    return groups


def load_tensors(checkpoint: Path, tensors: Mapping[str, Any]) -> None:
    """Fills nested tensors, or the parts of them that this process holds; of several processes every one calls it.

    Raises ValueError for a checkpoint that is broken or lacks one of them.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as load_parts

    alone = not distributed.is_initialized()
    with _broken(checkpoint), _quiet():
        reader = HuggingFaceStorageReader(str(checkpoint))
        load_parts(dict(flat(tensors)), storage_reader=reader, no_dist=alone)


def forget(folder: Path, stage: str) -> None:
    """Deletes this stage's checkpoints; another stage's stay, and broken ones go."""
    for path in (*_steps(folder / STATE_FOLDER), folder / STATE_FOLDER / HEALTHY_FOLDER):
        try:
            own = read_numbers(path)["stage"] == stage
        except ValueError:
            own = True
        if own:
            shutil.rmtree(path, ignore_errors=True)


def forget_steps(folder: Path) -> None:
    """Deletes the checkpoints of every stage, but the last one at which nothing was wrong."""
    _forget(folder, "step-*")


def forget_healthy(folder: Path) -> None:
    """Deletes the last one at which nothing was wrong."""
    _forget(folder, HEALTHY_FOLDER)


def forget_all(folder: Path) -> None:
    """Deletes the checkpoints of every stage."""
    shutil.rmtree(folder / STATE_FOLDER, ignore_errors=True)


def _forget(folder: Path, names: str) -> None:
    """Deletes checkpoints of these names, and the folder of all once it is empty: it says that there are some."""
    state = folder / STATE_FOLDER
    for path in state.glob(names):
        shutil.rmtree(path, ignore_errors=True)
    if state.is_dir() and not any(state.iterdir()):
        state.rmdir()


def flat(nested: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested mappings, by its names joined with /."""
    for name, value in nested.items():
        if isinstance(value, Tensor):
            yield f"{above}{name}", value
        elif isinstance(value, Mapping):
            yield from flat(value, f"{above}{name}/")


def _name_of(numbers: Mapping[str, Any]) -> str:
    # rounds of a warm-up have names of their own, so that none of them replaces the one before
    rounds = numbers.get("rounds", 0)
    return f"step-{numbers['step']:06d}" + (f"-{rounds:04d}" if rounds else "")


def _steps(state: Path) -> list[Path]:
    def order(path: Path) -> list[int]:
        return [int(number) for number in path.name.split("-")[1:]]

    steps = [path for path in state.glob("step-*") if re.fullmatch(r"step-\d+(-\d+)?", path.name, re.ASCII)]
    return sorted((path for path in steps if (path / _NUMBERS).is_file()), key=order)


def _name(part: Path, whole: Path) -> None:
    # contents must be on the disk before the name is, or a power cut could leave a named folder of empty files
    sync_tree(part)
    old = whole.with_name(f".{whole.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if whole.exists():
        os.replace(whole, old)
    os.replace(part, whole)
    sync_folder(whole.parent)
    shutil.rmtree(old, ignore_errors=True)


def _keep_last(state: Path, numbers: Mapping[str, Any]) -> None:
    # a roll back leaves checkpoints of later steps, which a resume would take for the newest
    own = []
    for path in _steps(state):
        stored = read_numbers(path)
        if stored["stage"] == numbers["stage"] and stored["step"] <= numbers["step"]:
            own.append(path)
        else:
            shutil.rmtree(path)
    for path in own[:-_KEPT]:
        shutil.rmtree(path)


@contextmanager
def _broken(checkpoint: Path) -> Iterator[None]:
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError, CheckpointException) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{checkpoint} is broken or of another stage ({reason}): delete it to resume from the checkpoint before it"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield
