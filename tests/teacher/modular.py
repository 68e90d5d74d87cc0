"""Modular pipelines as diffusers saves them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers


def open_modular(classical: Path, class_name: str = "WanModularPipeline") -> Any:
    """The modular pipeline of this class from the parts of a classical one's folder."""
    blocks = getattr(diffusers, getattr(diffusers, class_name).default_blocks_name)()
    pipeline: Any = blocks.init_pipeline(str(classical))
    pipeline.load_components()
    return pipeline


def save_modular(classical: Path, folder: Path, class_name: str = "WanModularPipeline") -> None:
    """The same as a folder."""
    open_modular(classical, class_name).save_pretrained(str(folder), overwrite_modular_index=True)
    shutil.copy(classical / "fewstep.json", folder)
