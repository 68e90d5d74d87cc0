"""What a turn learns from: which clips, and which randomness, follow from seed and position alone."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from fewstep.distill.objectives.base import Batch
from fewstep.teacher.base import Teacher
from fewstep.teacher.dataset_reader import conditions_of, read_unconditional
from fewstep.teacher.shuffled_rows import ShuffledRows


class BatchSource(Protocol):
    """Whatever a stage draws its clips from."""

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """`size` clips on the teacher's device, at a position always the same; `progress` is 0..1 of the stage."""


class Batches:
    """The batches of one stage. Position n is the n-th one drawn by each process, whoever's turn it is.

    Raises ValueError for a dataset of another teacher.
    """

    def __init__(
        self, folder: Path, teacher: Teacher, seed: int, stage: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self._rows = ShuffledRows(folder, teacher_sha256=teacher.sha256(), seed=seed + stage)
        self._unconditional, self._padded = read_unconditional(folder), teacher.padded
        self._device, self._key = teacher.device, (seed, stage)
        self._rank, self._world_size = rank, world_size

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """`size` clips on the teacher's device; `progress` is 0..1 of the stage."""
        first = (position * self._world_size + self._rank) * size
        rows = [self._rows[first + i] for i in range(size)]
        x0 = torch.stack([row["latents"] for row in rows]).float().to(self._device)
        conditions = conditions_of(rows, self._unconditional, self._padded).to(self._device)
        return Batch(x0, conditions, self._generator(position), progress)

    def _generator(self, position: int) -> torch.Generator:
        key = np.random.SeedSequence([*self._key, position, self._rank])
        return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
