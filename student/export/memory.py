"""How much memory an export takes, said before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch
from torch import nn

from fewstep.student.contract import SamplingContract, read_contract
from fewstep.student.export.base import Format
from fewstep.student.export.load_export import check_export, is_export, own_pipeline
from fewstep.student.export.stock import can_share_denoisers
from fewstep.student.loading import find_stage
from fewstep.teacher.base import Teacher
from fewstep.teacher.outline import outline_teacher

# of the denoiser, in float32: the teacher's, the student's, as held or the other tool's; half, as stored
_COPIES = 3.5
_COPIES_OF_LORA = 2.5  # a LoRA lies on the teacher's tensors; merged it is held, too
_COPIES_SHARED = 1.0  # where it is loaded back around them
_ANOTHER = 1.0  # where a format makes one while it writes
_GIB = 2**30
_WORTH_SAYING = 1.0  # GiB


def outlined_student(source: Path, steps: int | None, teacher: str | None) -> tuple[Teacher, SamplingContract]:
    """The teacher of a run, a stage or an export, without weights, and the student's contract. Raises ValueError where
    there is none."""
    if is_export(source):
        contract, own = check_export(source), teacher is None and own_pipeline(source)
    else:
        contract, own = read_contract(find_stage(source, steps)), False
    return outline_teacher(source if own else teacher or contract.named_teacher, contract.shift).teacher, contract


def gib_of_export(teacher: Teacher, adapted: bool = False, format: Format | None = None) -> float:
    """GiB at most, but for activations, as `format`, or as any.

    adapted: the student is a LoRA.
    """
    copies = _COPIES
    if adapted:
        shared = format is not None and format.shares_base and can_share_denoisers(teacher)
        copies = _COPIES_SHARED if shared else _COPIES_OF_LORA
    if format is None or format.makes_another:
        copies += _ANOTHER
    parts = [part for part in teacher.pipeline.components.values() if isinstance(part, nn.Module)]
    denoiser = sum(p.numel() for p in teacher.denoiser.parameters())
    others = sum(p.numel() for part in parts for p in part.parameters()) - denoiser
    # text encoder and autoencoder are there once, but where the tool computes in half the precision
    times = 1.5 if format is None or format.computes_as_stored else 1.0
    return 4 * (times * others + copies * denoiser) / _GIB


def memory_notice(
    teacher: Teacher, device: torch.device, adapted: bool = False, format: Format | None = None
) -> tuple[str, bool]:
    """A sentence, nothing where it is little, and whether that is more than is free on the device.

    adapted, format: as of `gib_of_export`.
    """
    needed, free = gib_of_export(teacher, adapted, format), _free_bytes(device) / _GIB
    if needed < _WORTH_SAYING:
        return "", False
    place = "" if device.type == "cpu" else f" on {device}"
    text = f"it takes about {needed:.0f} GiB of memory without activations, and {free:.0f} GiB are free{place}"
    return text, needed > free


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
