"""Which parts of a pipeline are kept in memory, and for how long."""

from __future__ import annotations

import gc
from typing import Any

import torch


class HeldParts:
    """The part of `Teacher` that drops parts of its pipeline once they are no longer needed."""

    pipeline: Any
    reads_text = True  # False where clips are made from images alone: prompts are then no more than names of clips
    other_encoders: tuple[str, ...] = ()  # parts of the pipeline that only `conditions` needs, besides its text encoder
    unloaded: tuple[str, ...] = ()  # parts of the pipeline that nothing here needs, such as a safety checker

    @property
    def encoders(self) -> tuple[str, ...]:
        """The parts of the pipeline that only `conditions` needs."""
        return (*(("text_encoder",) if self.reads_text else ()), *self.other_encoders)

    def free_text(self) -> None:
        """Drops what encodes prompts and given images from memory, for good; `conditions` is refused from now on."""
        for name in self.encoders:
            self._free(name)

    def free_vae(self) -> None:
        """Drops the autoencoder from memory, for good; `encode` and `decode` are refused from now on."""
        self._free("vae")

    def _free(self, part: str) -> None:
        setattr(self.pipeline, part, None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _part(self, part: str) -> Any:
        held = getattr(self.pipeline, part)
        if held is None:
            raise ValueError(f"the teacher's {part} was freed from memory: load the teacher again to use it")
        return held
