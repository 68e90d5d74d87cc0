"""Per-clip numbers on disk, a batch a file: what a killed evaluation resumes from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.teacher.files.atomic import whole_file


class ClipStore:
    """Rows of named tensors in files 00000-00032.safetensors, written in any order; every file is whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[range, Path] = {}
        for path in folder.glob("[0-9]*.safetensors"):
            if rows := re.fullmatch(r"(\d+)-(\d+)", path.stem):  # other names are copies that a sync tool made
                self._files[range(int(rows[1]), int(rows[2]))] = path

    def batches(self, rows: int, size: int) -> Iterator[range]:
        """All rows in order, `size` at a time; those that are there keep the batches in which they came."""
        start = 0
        for batch in [*self._there, range(rows, rows)]:
            for first in range(start, batch.start, size):
                yield range(first, min(first + size, batch.start))
            if batch:
                yield batch
            start = batch.stop

    def names(self, batch: range) -> set[str]:
        """The tensors that are there for a batch."""
        if batch not in self._files:
            return set()
        with _opened(self._files[batch]) as file:
            return set(file.keys())

    def holds(self, name: str, rows: int) -> bool:
        """Whether a tensor is there for each of this many rows."""
        return all(name in self.names(batch) for batch in self.batches(rows, rows))

    def add(self, batch: range, tensors: Mapping[str, Tensor]) -> None:
        """Adds tensors of as many rows to a batch."""
        assert all(len(tensor) == len(batch) for tensor in tensors.values())
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{batch.start:05d}-{batch.stop:05d}.safetensors"
        there = load_file(self._files[batch]) if batch in self._files else {}
        with whole_file(path) as part:
            save_file(there | {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
        self._files[batch] = path

    def read(self, name: str, rows: range | None = None) -> Tensor:
        """A tensor of these rows, or of all."""
        slices = []
        for batch in self._there:
            start, stop = (0, batch.stop) if rows is None else (rows.start, rows.stop)
            start, stop = max(start, batch.start), min(stop, batch.stop)
            if start < stop:
                with _opened(self._files[batch]) as file:
                    slices.append(file.get_slice(name)[start - batch.start : stop - batch.start])
        return torch.cat(slices)

    @property
    def _there(self) -> list[range]:
        return sorted(self._files, key=lambda batch: batch.start)


def _opened(path: Path) -> Any:
    """A file of rows. Raises ValueError for one that is cut off."""
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is cut off ({error}): delete it, and its clips are measured again") from error
