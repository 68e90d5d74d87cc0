"""What a turn learns from: which clips, and which randomness, follow from seed and position alone."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from fewstep.distill.deck import Deck
from fewstep.distill.objectives.base import Batch
from fewstep.teacher.base import Teacher
from fewstep.teacher.buckets import datasets_in
from fewstep.teacher.dataset_reader import conditions_of, read_unconditional
from fewstep.teacher.shuffled_rows import WINDOW, ShuffledRows


class BatchSource(Protocol):
    """Whatever a stage draws its clips from."""

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """`size` clips on the teacher's device, at a position always the same; `progress` is 0..1 of the stage."""

    def of_each_size(self, position: int, size: int) -> list[Batch]:
        """A batch of every size of clips, at the beginning of the stage."""


class Batches:
    """The batches of one stage. Position n is the n-th one drawn by each process, whoever's turn it is.

    Clips of a batch have one size. Where the dataset has several, a `Deck` says which: the same for all processes, so
    that none waits for another at a step. Raises ValueError for a dataset of another teacher.
    """

    def __init__(
        self, folder: Path, teacher: Teacher, seed: int, stage: int, rank: int = 0, world_size: int = 1
    ) -> None:
        folders, sha256 = datasets_in(folder), teacher.sha256()
        window = WINDOW // len(folders)
        self._rows = [ShuffledRows(one, teacher_sha256=sha256, seed=seed + stage, window=window) for one in folders]
        self._unconditional, self._padded = [read_unconditional(one) for one in folders], teacher.padded
        self._device, self._key = teacher.device, (seed, stage)
        self._rank, self._world_size = rank, world_size
        self._decks: dict[int, Deck] = {}

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """`size` clips on the teacher's device; `progress` is 0..1 of the stage."""
        bucket, number = self._deck(size).card(position)
        return self._batch(bucket, number, position, size, progress)

    def of_each_size(self, position: int, size: int) -> list[Batch]:
        """A batch of every size of clips, at the beginning of the stage."""
        return [self._batch(bucket, position, position, size, 0.0) for bucket in range(len(self._rows))]

    def _deck(self, size: int) -> Deck:
        """Of as many batches of each size as it has clips for."""
        if size not in self._decks:
            counts = [max(1, len(rows) // (size * self._world_size)) for rows in self._rows]
            self._decks[size] = Deck(counts, self._key)
        return self._decks[size]

    def _batch(self, bucket: int, number: int, position: int, size: int, progress: float) -> Batch:
        """The bucket's batch of this number."""
        first = (number * self._world_size + self._rank) * size
        rows = [self._rows[bucket][first + i] for i in range(size)]
        x0 = torch.stack([row["latents"] for row in rows]).float().to(self._device)
        conditions = conditions_of(rows, self._unconditional[bucket], self._padded).to(self._device)
        return Batch(x0, conditions, self._generator(position), progress)

    def _generator(self, position: int) -> torch.Generator:
        key = np.random.SeedSequence([*self._key, position, self._rank])
        return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
