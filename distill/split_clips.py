"""One clip over several processes: each computes a part of its tokens (Ulysses, arXiv 2309.14509), by diffusers' plans.

Every process of a group takes the same clips. Each network is asked by all of them at once, and gives the whole
prediction to each. Gradients of a process are those through its own tokens: their sum over the group is the clip's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.experts import every_network
from fewstep.teacher.source import size_text

_DIMENSIONS = ("ring", "ulysses")  # as diffusers names them


def check_split(teacher: Teacher, context: int, sizes: Iterable[VideoSize], others: Iterable[str]) -> None:
    """Raises ValueError where this teacher's clips of these sizes cannot be split over `context` processes; `others`:
    stages whose objective does not take split clips."""
    if names := ", ".join(others):
        raise ValueError(
            f"parallel.context is {context}, and the objective of {names} does not say that it takes clips of which "
            "each process has a part (`splits_clips`): set parallel.context=1, or train these stages in a run of their "
            "own"
        )
    # Ulysses shares out heads within attention and tokens around it, all equally (arXiv 2309.14509)
    for network in every_network(teacher.denoiser):
        kind, heads = type(network).__name__, getattr(network.config, "num_attention_heads", None)
        # a plan alone is not enough: some leave out inputs that pipelines give, such as masks of text
        if not teacher.splits_clips or getattr(network, "_cp_plan", None) is None:
            raise ValueError(
                f"parallel.context is {context}, and diffusers has no plan that splits clips of {kind} as they are "
                "trained here: set parallel.context=1"
            )
        if isinstance(heads, int) and heads % context:
            raise ValueError(
                f"parallel.context is {context}, and {kind} has {heads} attention heads, which are shared out equally: "
                f"use one of {', '.join(str(n) for n in range(1, heads + 1) if heads % n == 0)}"
            )
        for size in sizes:
            if (num_tokens := _num_tokens(network, teacher.latent_shape(*size))) % context:
                raise ValueError(
                    f"parallel.context is {context}, and a clip of {size_text(size)} has {num_tokens} tokens, which "
                    "are shared out equally: use another size or context"
                )


def _num_tokens(network: Any, latent_shape: tuple[int, ...]) -> int:
    """Of a clip, in patches as diffusers' video transformers name them: (frames, height, width), or of a side."""
    patch, frames = network.config.patch_size, getattr(network.config, "patch_size_t", None) or 1
    sides = (frames, patch, patch) if isinstance(patch, int) else tuple(patch)
    return math.prod(-(-length // side) for length, side in zip(latent_shape[1:], sides, strict=True))


def groups_mesh(device: str, num_groups: int, context: int) -> Any:
    """The mesh of this process's group of `context` neighbours, of which there are `num_groups`; all call it."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (num_groups, 1, context), mesh_dim_names=("group", *_DIMENSIONS))[_DIMENSIONS]


def split_clips(network: nn.Module, mesh: Any) -> None:
    """From now on the network computes each clip with the other processes of its group."""
    from diffusers import ContextParallelConfig

    split: Any = network
    with _on_any_device():
        split.enable_parallelism(config=ContextParallelConfig(ulysses_degree=mesh.size(), mesh=mesh))


@contextmanager
def _on_any_device() -> Iterator[None]:
    """diffusers numbers a process's accelerator, of which a CPU has none, and calls this experimental each time."""
    logger = logging.getLogger("diffusers.models.modeling_utils")
    level, count = logger.level, max(1, torch.accelerator.device_count())
    logger.setLevel(logging.ERROR)
    try:
        with patch("torch.accelerator.device_count", lambda: count):
            yield
    finally:
        logger.setLevel(level)
