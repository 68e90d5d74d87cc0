"""Modular pipelines as diffusers saves them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from diffusers import ModularPipeline


def save_modular(classical: Path, folder: Path) -> None:
    pipeline: Any = ModularPipeline.from_pretrained(str(classical))
    pipeline.load_components()
    pipeline.save_pretrained(str(folder), overwrite_modular_index=True)
    shutil.copy(classical / "fewstep.json", folder)
