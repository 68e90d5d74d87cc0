"""What an error comes from: the errors behind it, which libraries often raise another one over."""

from __future__ import annotations

from collections.abc import Iterator


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then every one that was its cause or was being handled when it was raised."""
    waiting, seen = [error], set[int]()
    while waiting:
        current = waiting.pop()
        if id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting += [cause for cause in (current.__context__, current.__cause__) if cause is not None]
