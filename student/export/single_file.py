"""The whole denoiser in one safetensors file under its original names, for `from_single_file`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.student.denoiser import single_denoiser
from fewstep.student.export.abilities import original_names, single_file_loader
from fewstep.student.export.base import ExportPrecision, Format, Options, SampleLatents, Written
from fewstep.student.export.header import only_file, read_tensors, write_tensors
from fewstep.student.export.precision import cast
from fewstep.student.export.stock import (
    base_code,
    clip_code,
    denoiser_name,
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


def checkpoint_name(student: Student) -> str:
    """The file's name."""
    return f"fewstep-{student.contract.steps}step.safetensors"


def write_checkpoint(student: Student, folder: Path, format: str, precision: ExportPrecision, prefix: str = "") -> None:
    """Writes the denoiser under its original names, and its config.json, as `from_single_file` takes them."""
    network, names = cast(merged_network(student), precision), original_names(student.teacher)
    state = network.state_dict()
    original = names.original(state, prefix)
    # diffusers' own converter must find the way back to the same tensors
    back = names.to_diffusers(original)
    assert back.keys() == state.keys(), min(back.keys() ^ state.keys())
    assert all(torch.equal(back[key], tensor.cpu()) for key, tensor in state.items())
    write_tensors(folder / checkpoint_name(student), original, student.contract, format)
    save_config(network, folder)


def reload_checkpoint(folder: Path, student: Student) -> SampleLatents:
    """diffusers' own single-file loader, in the base model's pipeline."""
    kind: Any = type(single_denoiser(student.teacher))
    with without_bars():
        network = kind.from_single_file(
            str(only_file(folder)), config=str(folder), local_files_only=True, dtype=torch.float32
        )
    return pipeline_latents(stock_pipeline(student, **{denoiser_name(student.teacher): network}), student)


def checkpoint_snippet(student: Student, written: Written) -> str:
    """The same in a user's hands."""
    kind, name = type(single_denoiser(student.teacher)).__name__, denoiser_name(student.teacher)
    load = f'\n{name} = {kind}.from_single_file("{checkpoint_name(student)}", config="."{dtype_code(written)})'
    start = imports_code(student.contract.pipeline, kind, stock_scheduler(student).name)
    return start + load + base_code(student, f", {name}={name}{dtype_code(written)}") + clip_code(student)


def load_checkpoint(path: Path, teacher: Teacher) -> nn.Module:
    """A network of the teacher's kind with the file's weights. Raises ValueError when they do not fit."""
    base = single_denoiser(teacher)
    state = original_names(teacher).to_diffusers(read_tensors(path)[0])
    own: dict[str, Tensor] = base.state_dict()
    strays = own.keys() ^ state.keys() | {
        key for key in own.keys() & state.keys() if own[key].shape != state[key].shape
    }
    if strays:
        raise ValueError(
            f"{path} is no {type(base).__name__} of the teacher's size (see {min(strays)}): use its own teacher "
            "(--teacher of `fewstep sample` and `fewstep export`)"
        )
    # with what the family did to it, such as its attention processors; around `base`'s tensors until they are replaced
    network: nn.Module = shared_copy(base)
    network.load_state_dict({key: tensor.to(own[key]) for key, tensor in state.items()}, assign=True)
    return network.requires_grad_(False)


def _write(student: Student, folder: Path, options: Options) -> Written:
    stock_scheduler(student)  # refuse before the work
    write_checkpoint(student, folder, "single-file", options.precision or "float32")
    return Written()


def _network(path: Path, teacher: Teacher) -> nn.Module:
    return load_checkpoint(only_file(path), teacher)


FORMATS = {
    "single-file": Format(
        name="single-file",
        write=_write,
        reload=reload_checkpoint,
        network=_network,
        snippet=checkpoint_snippet,
        lacks=single_file_loader,
    )
}
