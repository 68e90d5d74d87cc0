"""Memory that runs out in the middle of training, and what is kept then."""

from __future__ import annotations

import torch

_OF_THE_CPU = ("can't allocate memory", "not enough memory")  # torch's, as a RuntimeError


class MemoryRanOut(ValueError):
    """Memory ran out in a step of a stage: the message says where, and what is `kept`."""

    def __init__(self, stage: str, step: int, kept: str) -> None:
        super().__init__(f"stage {stage}: memory ran out in step {step + 1}; {kept}")
        self.stage = stage


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_THE_CPU)


def kept_steps(steps: int, rounds: int = 0) -> str:
    """What the checkpoint holds once training has ended in an error: steps, or rounds of the warm-up before them."""
    if steps:
        return f"its first {steps} steps are kept"
    return f"of its warm-up {rounds} rounds are kept" if rounds else "none of its steps is kept"
