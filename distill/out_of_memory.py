"""What to change when memory runs out in the middle of training."""

from __future__ import annotations

import torch

from fewstep.distill.settings import Stage, stage_of

_OF_THE_CPU = ("can't allocate memory", "not enough memory")  # torch's, as a RuntimeError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OF_THE_CPU)


def kept_steps(kept: int) -> str:
    """What the checkpoint holds once training has ended in an error."""
    return f"its first {kept} steps are kept" if kept else "none of its steps is kept"


def memory_sentence(stage: Stage, step: int, kept: int) -> str:
    """One sentence: where it happened, how many steps are kept, and which lines of the recipe take less."""
    clips = stage.batch // stage.accumulate
    again = stage_of(stage.name)
    fewer = f"; with --again {again}, accumulate above {stage.accumulate} ({clips} clips go through at once now)"
    return (
        f"stage {stage.name}: memory ran out in step {step + 1}; {kept_steps(kept)}: run the same "
        f"command again with gradient_checkpointing: true or average: cpu{fewer if clips > 1 else ''}; in a new `out`, "
        "student.train: lora or a smaller size (--dry-run says what each takes)"
    )
