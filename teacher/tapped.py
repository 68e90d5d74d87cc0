"""What blocks of a network give while it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from torch import Tensor, nn


class _AllSeen(Exception):
    """Ends a forward pass of which only features are wanted."""


def outputs_of(
    blocks: Collection[nn.Module], run: Callable[[], object], stop: bool, output_of: Callable[[Any], Tensor]
) -> dict[nn.Module, Tensor]:
    """What `output_of` says of these blocks' outputs while `run` asks their network.

    With `stop` that ends behind the last of the blocks.
    """
    outputs: dict[nn.Module, Tensor] = {}

    def keep(block: nn.Module, _: object, output: Any) -> None:
        outputs[block] = output_of(output)
        # only an exception ends a forward pass before its last layer
        if stop and len(outputs) == len(blocks):
            raise _AllSeen

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        with suppress(_AllSeen):
            run()
    finally:
        # whether it ended or failed, the network is asked again without hooks
        for handle in handles:
            handle.remove()
    return outputs
