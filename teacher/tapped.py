"""What blocks of a network give while it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from torch import Tensor, nn


class _AllSeen(Exception):
    """Ends a forward pass of which only features are wanted."""


def outputs_of(blocks: Collection[nn.Module], run: Callable[[], object], stop: bool) -> dict[nn.Module, Tensor]:
    """The outputs of these blocks, of several the first, while `run` asks their network; with `stop` it ends behind the
    last of them."""
    found: dict[nn.Module, Tensor] = {}

    def keep(block: nn.Module, _: object, output: Any) -> None:
        found[block] = output[0] if isinstance(output, tuple) else output
        if stop and len(found) == len(blocks):
            raise _AllSeen

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        with suppress(_AllSeen):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return found
