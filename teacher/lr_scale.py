"""How a learning rate goes over a training: up at first, down at last."""

from __future__ import annotations


def lr_scale(step: int, steps: int, warmup: int, cooldown: float) -> float:
    """What multiplies the learning rate at a step, 0-based: up over `warmup` steps, down over the last `cooldown`
    (a fraction of the steps)."""
    return min(1.0, (step + 1) / max(1, warmup), (steps - step) / max(1.0, cooldown * steps))
