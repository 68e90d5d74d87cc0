"""The part of the denoiser that alone was trained, as its users share it: it goes into any base model's pipeline."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.student.contract import UNNAMED
from fewstep.student.denoiser import single_denoiser
from fewstep.student.export.base import ExportPrecision, Format, Options, SampleLatents, Written
from fewstep.student.export.header import read_tensors, write_tensors
from fewstep.student.export.precision import cast, dtype_of
from fewstep.student.export.stock import (
    base_code,
    clip_code,
    dtype_code,
    imports_code,
    merged_network,
    pipeline_latents,
    stock_pipeline,
    stock_scheduler,
)
from fewstep.student.loading import Student
from fewstep.student.weights import save_config
from fewstep.teacher.base import Teacher
from fewstep.teacher.bases import shared_copy
from fewstep.teacher.loading import without_bars

ORIGINAL_FOLDER = "original"  # folder of the file that other programs' users share
DIFFUSERS_WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"  # what from_pretrained looks for


def _lacks(teacher: Teacher) -> str:
    if not teacher.subsets:
        return f"no part of a {type(teacher.pipeline).__name__} is shared by itself"
    return ""


def _leaving(student: Student) -> Collection[str]:
    part: nn.Module = student.teacher.shared_part(single_denoiser(student.teacher))
    return part.state_dict().keys()


def _write(student: Student, folder: Path, options: Options) -> Written:
    """Config and weights as diffusers saves the part, the contract in the header."""
    stock_scheduler(student)  # refuse before the work
    network = merged_network(student)
    part = student.teacher.shared_part(network)
    # the part alone leaves, so nothing else may have been trained
    _check_rest(student, network, part)
    save_config(part, folder)
    part = cast(part, options.precision or "float32")
    write_tensors(folder / DIFFUSERS_WEIGHTS_FILE, part.state_dict(), student.contract, "part")
    notes = write_shared(student, part, folder)
    name = student.contract.teacher
    example = "" if name == UNNAMED else f"; {name} is one"
    any_base = f"For any base model of this architecture, as a {type(part).__name__}{example}."
    return Written((any_base, *notes), relation="adapter")


def trained_part(student: Student, network: Any, precision: ExportPrecision) -> Any:
    """The part of a student that alone was trained, all of which is rounded to this precision; None where more was
    trained, or the family shares none."""
    if not student.teacher.subsets:
        return None
    part = student.teacher.shared_part(network)
    try:
        _check_rest(student, network, part, precision)
    except ValueError:
        return None
    return part


def write_shared(student: Student, part: Any, folder: Path) -> list[str]:
    """The part once more, in one file as users of other programs share it; a sentence that says so.

    diffusers must read the same back.
    """
    teacher = student.teacher
    if part is None or not (tensors := teacher.part_file(part)):
        return []
    path = folder / ORIGINAL_FOLDER / f"fewstep-{student.contract.steps}step-{next(iter(teacher.subsets))}.safetensors"
    path.parent.mkdir()
    write_tensors(path, tensors, student.contract, "part")
    save_config(part, path.parent)
    with without_bars():
        back = type(part).from_single_file(str(path), config=str(path.parent), local_files_only=True)
    own = part.state_dict()
    assert all(torch.equal(x, own[name].to(x)) for name, x in back.state_dict().items() if ".pe" not in name)
    return [
        f"{ORIGINAL_FOLDER}/{path.name} is its {type(part).__name__} under its authors' names, for "
        f"{teacher.shared_with}."
    ]


def _check_rest(student: Student, network: nn.Module, part: nn.Module, precision: ExportPrecision = "float32") -> None:
    """Raises ValueError when more was trained than leaves with the part; rounding to this precision is no training."""
    own, held = single_denoiser(student.teacher).state_dict(), part.state_dict().keys()
    for name, tensor in network.state_dict().items():
        rounded = own[name].to(dtype_of(precision)).to(tensor)
        if name not in held and not (torch.equal(tensor, own[name]) or torch.equal(tensor, rounded)):
            raise ValueError(
                f"the student differs from its teacher in more than the part that would leave (see {name}), so the "
                "part alone is not a student: train it with student.only, or export to another format"
            )


def _reload(folder: Path, student: Student) -> SampleLatents:
    kind: Any = type(student.teacher.shared_part(single_denoiser(student.teacher)))
    with without_bars():
        part = kind.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
    pipe = stock_pipeline(student)
    student.teacher.put_part(pipe, part)
    return pipeline_latents(pipe, student)


def _network(path: Path, teacher: Teacher) -> nn.Module:
    """The teacher's denoiser with the part in it. Raises ValueError for the part of another architecture."""
    file = path if path.is_file() else path / DIFFUSERS_WEIGHTS_FILE
    state, _ = read_tensors(file)
    own = single_denoiser(teacher).state_dict()
    if strays := [name for name, x in state.items() if name not in own or own[name].shape != x.shape]:
        raise ValueError(f"{file} fits no {type(teacher.pipeline).__name__} like {teacher.folder} (see {strays[0]})")
    network = shared_copy(single_denoiser(teacher), state.keys())
    network.load_state_dict(state, strict=False)
    frozen: nn.Module = network.requires_grad_(False)
    return frozen


def _snippet(student: Student, written: Written) -> str:
    kind = type(student.teacher.shared_part(single_denoiser(student.teacher))).__name__
    start = imports_code(student.contract.pipeline, kind, stock_scheduler(student).name)
    here = "  # this folder, or its id on the hub"
    load = f'part = {kind}.from_pretrained("."{dtype_code(written)}){here}\n{student.teacher.part_code}\n'
    return start + base_code(student, dtype_code(written)) + load + clip_code(student)


FORMATS = {
    "part": Format(
        name="part",
        write=_write,
        reload=_reload,
        network=_network,
        snippet=_snippet,
        lacks=_lacks,
        leaving=_leaving,
    )
}
