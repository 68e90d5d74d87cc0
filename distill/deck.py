"""In which order batches of several sizes come: cards of a deck that is shuffled anew whenever it is used up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Deck:
    """`counts[b]` cards of each bucket b; the order follows from the key and the deck's number alone.

    So any card can be asked for directly, which an exact resume needs, and all processes draw the same.
    """

    def __init__(self, counts: Sequence[int], key: Sequence[int]) -> None:
        self._counts, self._key = tuple(counts), tuple(key)
        self._number, self._order = -1, np.empty(0, dtype=np.int64)

    def card(self, n: int) -> tuple[int, int]:
        """The bucket of card n, 0-based and without end, and how many cards of that bucket came before."""
        number, place = divmod(n, sum(self._counts))
        if number != self._number:
            cards = np.repeat(np.arange(len(self._counts)), self._counts)
            self._order = np.random.default_rng([*self._key, number]).permutation(cards)
            self._number = number
        bucket = int(self._order[place])
        before = int((self._order[:place] == bucket).sum())
        return bucket, number * self._counts[bucket] + before
