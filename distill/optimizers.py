"""Which optimizer moves the parameters, and what it remembers of each: AdamW, with moments in 32, 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fewstep.distill.few_bit_moments import BLOCK, few_bit_optimizer, has_blocks

OptimizerKind = Literal["adamw", "adamw_fused", "adamw8bit", "adamw4bit"]
MOMENTS = ("exp_avg", "exp_avg_sq")
_OF_FEW_BITS = {"adamw8bit": "AdamW8bit", "adamw4bit": "AdamW4bit"}  # torchao's

# bytes of each of the two moments, with a scale per block; small tensors keep 4
MOMENT_BYTES: dict[OptimizerKind, float] = {
    "adamw": 4, "adamw_fused": 4, "adamw8bit": 1 + 4 / BLOCK, "adamw4bit": 1 / 2 + 4 / BLOCK,
}  # fmt: skip


def has_few_bits(kind: OptimizerKind) -> bool:
    """Whether moments are kept in blocks of 8 or 4 bits."""
    return kind in _OF_FEW_BITS


def check_optimizer(kind: OptimizerKind) -> None:
    """Raises ValueError where the library that it needs is missing."""
    if has_few_bits(kind):
        _few_bit(kind)


def make_optimizer(
    kind: OptimizerKind,
    groups: Sequence[dict[str, Any]],
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """AdamW over groups of parameters. Raises ValueError as `check_optimizer`."""
    if has_few_bits(kind):
        few_bit: Any = _few_bit(kind)
        made: torch.optim.Optimizer = few_bit(
            list(groups), lr=lr, betas=betas, weight_decay=weight_decay, block_size=BLOCK
        )
        return made
    on_meta = any(parameter.is_meta for group in groups for parameter in group["params"])  # where nothing is fused
    fused = True if kind == "adamw_fused" and not on_meta else None
    return torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)


def step(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One step at this learning rate."""
    for group in optimizer.param_groups:
        # torchao's lr is a tensor, as its compiled step would be compiled again for every new number
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
    with _as_it_is(optimizer):
        optimizer.step()


def fresh_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What the optimizer remembers of a parameter before its first step."""
    if has_blocks(optimizer):
        few_bit: Any = optimizer
        moments = {name: few_bit._new_buffer(parameter.detach(), name == "exp_avg") for name in MOMENTS}
    else:
        moments = {name: torch.zeros_like(parameter.detach()) for name in MOMENTS}
    fused = any(group.get("fused") for group in optimizer.param_groups)  # whose kernel counts where parameters are
    return {"step": torch.zeros((), device=parameter.device if fused else "cpu"), **moments}


def _as_it_is(optimizer: torch.optim.Optimizer) -> AbstractContextManager[Any]:
    """torchao compiles its step for every shape, which takes minutes on a CPU and pays on GPUs only."""
    if not has_blocks(optimizer):
        return nullcontext()
    devices = {p.device.type for group in optimizer.param_groups for p in group["params"]}
    return nullcontext() if devices == {"cuda"} else torch.compiler.set_stance("force_eager")


def _few_bit(kind: OptimizerKind) -> type[torch.optim.Optimizer]:
    return few_bit_optimizer(_OF_FEW_BITS[kind], f"optimizer {kind}")
