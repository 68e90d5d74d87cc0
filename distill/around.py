"""Methods that go through something else for a while: how a benchmark looks into a training step from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Method = Callable[..., Any]


@contextmanager
def around(owner: object, name: str, wrap: Callable[[Method], Method]) -> Iterator[None]:
    """Inside the `with` block `owner.name` is what `wrap` makes of it; other objects of its class are left alone."""
    before = vars(owner).get(name)
    setattr(owner, name, wrap(getattr(owner, name)))
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
