"""What is random about a batch: each clip has draws of its own, whoever gets it, and all clips have a few in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy

import numpy as np
import torch
from torch import Tensor

_OF_A_CLIP, _OF_ALL = 0, 1  # ends of keys


class Draws:
    """A generator per clip, by the clip's number in its stage, and a `shared` one; all on the CPU.

    So a clip gets the same noise, times and levels however the clips of a step are split over processes and
    micro-batches. `shared` is for what is drawn once for all clips of a micro-batch, the same in every process.
    """

    def __init__(self, key: Sequence[int], position: int, numbers: Sequence[int]) -> None:
        """key: what decides everything, such as seed and stage; position: of the micro-batch; numbers: of its clips."""
        self.shared = _generator(*key, _OF_ALL, position)
        self._of_clips = [_generator(*key, _OF_A_CLIP, number) for number in numbers]

    @classmethod
    def seeded(cls, seed: int, count: int) -> Draws:
        """Of `count` clips that are no stage's."""
        return cls((seed,), 0, range(count))

    def __len__(self) -> int:
        """How many clips."""
        return len(self._of_clips)

    def each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """`draw` of one clip, (1, ...), for every clip: (B, ...)."""
        return torch.cat([draw(generator) for generator in self._of_clips])

    def first(self, count: int) -> Draws:
        """Those of the first clips: what one draws, the other does not draw again."""
        some = copy(self)
        some._of_clips = self._of_clips[:count]
        return some

    @contextmanager
    def kept(self) -> Iterator[None]:
        """What is drawn inside the block can be drawn again behind it."""
        generators = [self.shared, *self._of_clips]
        before = [generator.get_state() for generator in generators]
        yield
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def _generator(*key: int) -> torch.Generator:
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed >> 1))
