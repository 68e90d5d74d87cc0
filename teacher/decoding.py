"""Decoding with something else than the teacher's own autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Decoding:
    """The part of `Teacher` whose clips another decoder may decode."""

    pipeline: Any

    @contextmanager
    def decoding_by(self, decode: Callable[..., Any] | None) -> Iterator[None]:
        """Within the block `decode` stands in for the method of the autoencoder, with the same arguments; None: it
        stays."""
        vae = self.pipeline.vae
        if decode is None or vae is None:  # a freed autoencoder says so itself
            yield
            return
        vae.decode = decode
        try:
            yield
        finally:
            del vae.decode
