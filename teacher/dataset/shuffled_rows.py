"""A dataset as an endless shuffled sequence in which row n can be asked for directly: what an exact resume needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.teacher.dataset.manifest import read_manifest
from fewstep.teacher.dataset.reader import check_dataset, read_rows

WINDOW = 2048  # rows in memory at a time


class ShuffledRows:
    """Row n of epoch n // len is decided by seed and n alone; every epoch shows every row once, in another order.

    Shards are shuffled, and rows within windows of neighbouring shards, so that one window of some `window` rows is
    in memory at a time. Rows are those of `read_rows`. Raises ValueError as `check_dataset` does.
    """

    def __init__(self, folder: Path, *, teacher_sha256: str, seed: int, window: int = WINDOW) -> None:
        manifest = read_manifest(folder)
        check_dataset(folder, manifest, teacher_sha256)
        shards = [shard for shard in manifest.shards if shard.rows]
        self._tensors = manifest.tensors
        self._paths = [folder / shard.name for shard in shards]
        self._rows = np.array([shard.rows for shard in shards])
        self._seed, self._window = seed, window
        self._epoch = -1
        self._held: tuple[int, int] = (-1, -1)  # epoch and window of the rows in memory
        self._memory: list[Mapping[str, Any]] = []

    def __len__(self) -> int:
        """Rows of one epoch."""
        return int(self._rows.sum())

    def __getitem__(self, n: int) -> Mapping[str, Any]:
        """Row n, 0-based, without end."""
        epoch, place = divmod(n, len(self))
        self._plan(epoch)
        window = int(np.searchsorted(self._ends, place, side="right"))
        if self._held != (epoch, window):
            self._memory, self._held = self._read(epoch, window), (epoch, window)
        return self._memory[place - (int(self._ends[window - 1]) if window else 0)]

    def _plan(self, epoch: int) -> None:
        """Decides the epoch's order of shards, and where each window ends."""
        if epoch == self._epoch:
            return
        # from seed and epoch alone, so that a resumed run has the same order
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._paths))
        self._windows: list[list[int]] = []
        # whole shards fill a window, so that each is read once an epoch
        held = self._window
        for shard in order.tolist():
            if held >= self._window:
                self._windows.append([])
                held = 0
            self._windows[-1].append(shard)
            held += int(self._rows[shard])
        self._ends = np.cumsum([self._rows[window].sum() for window in self._windows])
        self._epoch = epoch

    def _read(self, epoch: int, window: int) -> list[Mapping[str, Any]]:
        paths = [str(self._paths[shard]) for shard in self._windows[window]]
        rows = list(read_rows(paths, self._tensors))
        order = np.random.default_rng([self._seed, epoch, window]).permutation(len(rows))
        return [rows[i] for i in order]
