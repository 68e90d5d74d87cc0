"""What recipes of students and of decoders share: a teacher, and clips of it to learn from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import field_validator

from fewstep.distill.objectives.base import Settings
from fewstep.distill.settings import DataSettings, OutFolder, Seed, Size, SizeOrSizes
from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.source import VideoSize


class DataRecipe(Settings):
    """A teacher and its clips."""

    teacher: str = "shapes"
    """shapes, a diffusers pipeline's folder, or a hub id."""
    seed: Seed = 0
    """Seed of everything random in training."""
    out: OutFolder = Path("runs/student")
    """The run directory; a run that stopped there is resumed."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward passes; auto: bfloat16 where the device computes in it natively, else float32."""
    device: str | None = None
    """cpu or cuda; null: the GPU if there is one."""
    size: SizeOrSizes = None
    """Size of the clips, or a list of sizes; null: the teacher's own."""
    data: DataSettings
    """What is trained on."""

    @field_validator("precision", mode="before")
    @classmethod
    def _no_half(cls, precision: Any) -> Any:
        if precision in ("float16", "fp16", "half"):
            raise ValueError("FP16 overflows and adversarial training diverges in it: use bfloat16, float32 or auto")
        return precision

    @property
    def sizes(self) -> tuple[VideoSize, ...]:
        """The sizes of clips that the recipe states, the usual one first; none: the teacher's own."""
        stated = () if self.size is None else (self.size,) if isinstance(self.size, Size) else self.size
        return tuple(size.plain for size in stated)

    def dump_yaml(self) -> str:
        """Every setting, defaults included; reads back as an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def sha256(self) -> str:
        """Of every setting but where it runs."""
        return hashlib.sha256(self.model_dump_json(exclude={"device", "out"}).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Writes `dump_yaml` to a file, whole or not at all."""
        with whole_file(path) as part:
            part.write_text(self.dump_yaml(), "utf-8")
