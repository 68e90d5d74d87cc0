"""The autocast context that a recipe names."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Autocast for "fp32" (none) or "bf16". Raises ValueError for any other name."""
    if precision == "fp32":
        return nullcontext()
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    raise ValueError(f"precision is {precision!r}; it must be fp32 or bf16 (fp16 diverges)")
