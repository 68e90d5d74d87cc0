"""A teacher from its name: found, checked, loaded, and put into its family's hands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fewstep.teacher.loading import find_device, without_bars
from fewstep.teacher.source import find_teacher_folder

if TYPE_CHECKING:
    from fewstep.teacher.base import Teacher


def load_teacher(
    name: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    shift: float | None = None,
    parts: Callable[[Teacher], Mapping[str, nn.Module]] | None = None,
) -> Teacher:
    """A frozen teacher: `shapes` (the embedded one), a diffusers pipeline's folder, or a hub id.

    `dtype` is that of denoiser and text encoder; the autoencoder stays in float32. `device` defaults to the
    GPU if there is one. `shift`, above 0, replaces the scheduler's own. `parts` makes some from the teacher's outline,
    by name: those in the folder are not read then. Raises ValueError when there is no such teacher or device, its
    family is unknown, a part of it is missing, cut off, a pickle, or not what its config says, or its schedule is not
    one of its family.
    """
    from fewstep.teacher.families import FAMILIES, MODULAR_FAMILIES, REFUSED
    from fewstep.teacher.pipelines.empty_parts import as_config_error, outlined
    from fewstep.teacher.pipelines.loading import load_diffusers_pipeline

    chosen = find_device(device)
    folder, class_name = find_teacher_folder(name, tuple(FAMILIES), modular=MODULAR_FAMILIES, refused=REFUSED)
    outline = outlined(FAMILIES[class_name], folder, class_name, shift)  # all that is wrong, before weights are read
    # tokenizers were read with the outline; what a family never runs is not read at all
    ready = {n: p for n, p in outline.pipeline.components.items() if hasattr(p, "vocab_files_names")}
    ready |= dict.fromkeys(FAMILIES[class_name].unloaded)
    if parts is not None:
        ready |= parts(outline)
    try:
        with without_bars():
            pipeline = load_diffusers_pipeline(folder, class_name, {"default": dtype, "vae": torch.float32}, ready)
        _check_filled(pipeline)
        pipeline.to(chosen)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError, ImportError) as error:
        raise ValueError(f"{folder} cannot be loaded: {' '.join(str(error).split())}") from error
    # the family wraps the pipeline: from here on no code knows which pipeline it is
    with as_config_error(folder):
        teacher = FAMILIES[class_name](pipeline, folder)
        teacher.use_shift(shift)
    return teacher


def _check_filled(pipeline: Any) -> None:
    """Raises ValueError when a weight was in none of the files."""
    for part, module in pipeline.components.items():
        tensors = module.named_parameters() if isinstance(module, nn.Module) else ()
        if empty := [name for name, tensor in tensors if tensor.is_meta]:
            raise ValueError(f"the files of its {part} hold no {empty[0]}")
