"""A pipeline with its weights, from the folder of a classical or of a modular one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fewstep.teacher.pipelines.empty_parts import make_pipeline
from fewstep.teacher.pipelines.index import MODULAR_INDEX, index_path
from fewstep.teacher.pipelines.parts import find_class, named_parts


def load_diffusers_pipeline(
    folder: Path, class_name: str, dtypes: Mapping[str, torch.dtype], parts: Mapping[str, Any] | None = None
) -> Any:
    """The pipeline of diffusers' class `class_name`, from safetensors alone.

    `dtypes` are those of the parts, under `default` of all others; `parts` are in place of those in the folder. Raises
    what diffusers and transformers raise.
    """
    import diffusers

    ready = parts or {}
    if index_path(folder).name != MODULAR_INDEX:
        # by the class itself: DiffusionPipeline reads parts that a class need not have even where they are passed
        loader: Any = getattr(diffusers, class_name)
        return loader.from_pretrained(folder, dtype=dict(dtypes), use_safetensors=True, **ready)
    named = named_parts(folder, class_name).items()  # what the classical class takes
    made = {name: _load(folder / name, find_class(folder / name, part), dtypes, name) for name, part in named
            if name not in ready}  # fmt: skip
    return make_pipeline(folder, class_name, {**made, **ready})


def _load(folder: Path, kind: Any, dtypes: Mapping[str, torch.dtype], name: str) -> Any:
    if hasattr(kind, "state_dict"):
        return kind.from_pretrained(folder, dtype=dtypes.get(name, dtypes["default"]), use_safetensors=True)
    return kind.from_pretrained(folder)
