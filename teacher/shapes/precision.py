"""The autocast context that a recipe names."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

TrainingPrecision = Literal["auto", "fp32", "bf16"]  # fp16 diverges


def autocast(precision: TrainingPrecision, device: torch.device) -> AbstractContextManager[object]:
    """Autocast of a precision, none for fp32. `resolve_precision` of the recipe comes before, where it says auto."""
    assert precision != "auto"
    return nullcontext() if precision == "fp32" else torch.autocast(device.type, torch.bfloat16)
