"""Gradient checkpointing: what a block computes again in the backward pass, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recompute = bool | Literal["selective"]

# torch's kernels of attention, on CPUs and GPUs; those of other libraries are run again
_ATTENTION = {
    getattr(torch.ops.aten, f"_scaled_dot_product_{kind}").default
    for kind in ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
}


def block_checkpoint(
    kind: Recompute, again: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Callable[..., Any]:
    """What diffusers' `enable_gradient_checkpointing` takes: it calls blocks that are computed again in the backward
    pass.

    kind: True, everything; selective, all but attention, whose results are kept (torch's selective activation
    checkpointing): most of the seconds at tens of thousands of tokens, and one tensor of the tokens' size in memory.
    again: what else the second computation happens in.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        if kind != "selective":
            return nullcontext(), again()
        first, second = create_selective_checkpoint_contexts(_policy)
        return first, _within(again(), second)

    def call(block: Callable[..., Any], *args: Any) -> Any:
        return checkpoint(block, *args, use_reentrant=False, context_fn=contexts)

    return call


def _policy(context: object, kernel: object, *args: object, **named: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if kernel in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def _within(outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> Iterator[None]:
    with outer, inner:
        yield
