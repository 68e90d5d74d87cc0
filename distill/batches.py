"""What a turn learns from: which clips, and which randomness, follow from seed and position alone.

A position is that of a micro-batch of all processes together, of which each gets its share: so training is the same
whatever their number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from fewstep.distill.deck import Deck
from fewstep.distill.draws import Draws
from fewstep.distill.objectives.base import Batch
from fewstep.teacher.base import Teacher
from fewstep.teacher.bases import BASE_INDEX
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.dataset.buckets import datasets_in
from fewstep.teacher.dataset.reader import conditions_of, read_unconditional
from fewstep.teacher.dataset.shuffled_rows import WINDOW, ShuffledRows

_BASES = 1  # of the key of the draw of base models


class BatchSource(Protocol):
    """Whatever a stage draws its clips from."""

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """This process's `size` clips of a micro-batch, on the teacher's device; `progress` is 0..1 of the stage.

        At a position all processes together always get the same clips.
        """

    def of_each_size(self, position: int, size: int) -> list[Batch]:
        """A batch of every size of clips, at the beginning of the stage."""


class Batches:
    """The batches of one stage. Position n is the n-th one drawn by all processes, whoever's turn it is.

    Clips of a batch have one size. Where the dataset has several, a `Deck` says which: the same for all processes, so
    that none waits for another at a step. Raises ValueError for a dataset of another teacher.
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
        sized_by: Batches | None = None,
    ) -> None:
        """sha256: of the teacher whose clips they are, where that is another one: of a further base model.

        sized_by: whose order of sizes they take, so that processes with different base models agree on the size.
        """
        folders, sha256 = datasets_in(folder), sha256 or teacher.sha256()
        window = WINDOW // len(folders)
        self._rows = [
            ShuffledRows(dataset_folder, teacher_sha256=sha256, seed=seed + stage, window=window)
            for dataset_folder in folders
        ]
        self._unconditional, self._padded = (
            [read_unconditional(dataset_folder) for dataset_folder in folders],
            teacher.padded,
        )
        self._device, self._key = teacher.device, (seed, stage)
        self._rank, self._world_size = rank, world_size
        # the order of clip sizes, by clips in a batch; the same in every process, so that a batch has one shape
        self._decks: dict[int, Deck] = {}
        self._sized_by = sized_by or self

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """This process's `size` clips, on the teacher's device; `progress` is 0..1 of the stage."""
        bucket, number = self._sized_by.card(position, size)
        return self._batch(bucket, number, position, size, progress)

    def of_each_size(self, position: int, size: int) -> list[Batch]:
        """A batch of every size of clips, at the beginning of the stage."""
        return [self._batch(bucket, position, position, size, 0.0) for bucket in range(len(self._rows))]

    def card(self, position: int, size: int) -> tuple[int, int]:
        """Which size the batch at a position is of, and which of that size's batches it is.

        The deck has as many batches of each size as there are clips for.
        """
        if size not in self._decks:
            counts = [max(1, len(rows) // (size * self._world_size)) for rows in self._rows]
            self._decks[size] = Deck(counts, self._key)
        return self._decks[size].card(position)

    def _batch(self, bucket: int, number: int, position: int, size: int, progress: float) -> Batch:
        """The bucket's batch of this number."""
        # the processes' shares of a position lie side by side: together they are the batch that one process alone gets
        of_all, place = size * self._world_size, self._rank * size
        rows = [self._rows[bucket][number * of_all + place + i] for i in range(size)]
        x0 = torch.stack([row["latents"] for row in rows]).float().to(self._device)
        draws = Draws(self._key, position, range(position * of_all + place, position * of_all + place + size))
        # prompts of other clips (`others_conditions`) are the neighbour's, which another process may have
        before = None
        if self._world_size > 1:  # else it is the last clip here
            before = self._conditions(bucket, [self._rows[bucket][number * of_all + (place - 1) % of_all]])
        return Batch(x0, self._conditions(bucket, rows), draws, progress, before)

    def _conditions(self, bucket: int, rows: Sequence[Mapping[str, Any]]) -> Conditions:
        return conditions_of(rows, self._unconditional[bucket], self._padded).to(self._device)


class BasesBatches:
    """The batches of one stage around several base models: each is of one of them, and says so.

    At every position the processes have base models in turn, in an order that is drawn anew: with as many processes as
    base models each base model has one. It follows from seed, stage, position and process, so that here alone another
    number of processes learns from other clips.
    """

    def __init__(self, of_bases: Sequence[Batches], seed: int, stage: int, rank: int = 0) -> None:
        self._of_bases, self._key, self._rank = of_bases, (seed, stage), rank

    def batch(self, position: int, size: int, progress: float) -> Batch:
        """`size` clips of one base model, on the teacher's device."""
        base = self._base(position)
        return _of_base_model(base, self._of_bases[base].batch(position, size, progress))

    def of_each_size(self, position: int, size: int) -> list[Batch]:
        """A batch of every size of clips, all of one base model, at the beginning of the stage."""
        base = self._base(position)
        return [_of_base_model(base, batch) for batch in self._of_bases[base].of_each_size(position, size)]

    def _base(self, position: int) -> int:
        order = np.random.default_rng([*self._key, position, _BASES]).permutation(len(self._of_bases))
        return int(order[self._rank % len(order)])


def _of_base_model(base: int, batch: Batch) -> Batch:
    """The batch, which says that it is of this base model."""
    numbers = torch.full((len(batch.x0),), base, device=batch.x0.device)

    def with_base(conditions: Conditions) -> Conditions:
        return replace(conditions, shared={**conditions.shared, BASE_INDEX: numbers[: len(conditions)]})

    before = None if batch.before is None else with_base(batch.before)
    return replace(batch, conditions=with_base(batch.conditions), before=before)
