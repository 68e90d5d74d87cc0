"""What a turn learns from: which clips, and which randomness, follow from seed and position alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from fewstep.distill.objectives.base import Batch
from fewstep.teacher.base import Teacher
from fewstep.teacher.bases import BASE
from fewstep.teacher.dataset_reader import conditions_of, read_unconditional
from fewstep.teacher.shuffled_rows import ShuffledRows

_BASES = 1  # of the key of the draw of base models


class BatchSource(Protocol):
    """Whatever a stage draws its clips from."""

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """`size` clips on the teacher's device, at a position always the same; `progress` is 0..1 of the stage."""


class Batches:
    """The batches of one stage. Position n is the n-th one drawn by each process, whoever's turn it is.

    Raises ValueError for a dataset of another teacher.
    """

    def __init__(
        self,
        folder: Path,
        teacher: Teacher,
        seed: int,
        stage: int,
        rank: int = 0,
        world_size: int = 1,
        sha256: str | None = None,
    ) -> None:
        """sha256: of the teacher whose clips they are, where that is another one: of a further base model."""
        self._rows = ShuffledRows(folder, teacher_sha256=sha256 or teacher.sha256(), seed=seed + stage)
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


class BasesBatches:
    """The batches of one stage around several base models: each is of one of them, and says so.

    At every position the processes have base models in turn, in an order that is drawn anew: with as many processes as
    base models each base model has one. It follows from seed, stage and position alone, as the clips do.
    """

    def __init__(self, of_bases: Sequence[Batches], seed: int, stage: int, rank: int = 0) -> None:
        self._of_bases, self._key, self._rank = of_bases, (seed, stage), rank

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """`size` clips of one base model, on the teacher's device."""
        order = np.random.default_rng([*self._key, position, _BASES]).permutation(len(self._of_bases))
        base = int(order[self._rank % len(order)])
        batch = self._of_bases[base].batch(position, size, progress)
        numbers = torch.full((size,), base, device=batch.x0.device)
        conditions = replace(batch.conditions, shared={**batch.conditions.shared, BASE: numbers})
        return replace(batch, conditions=conditions)
