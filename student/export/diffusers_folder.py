"""A plain diffusers pipeline folder: `DiffusionPipeline.from_pretrained` needs nothing of ours to sample from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.student.contract import read_contract
from fewstep.student.export.base import Format, Options, SampleLatents, Written
from fewstep.student.export.part_file import trained_part, write_shared
from fewstep.student.export.precision import cast
from fewstep.student.export.stock import (
    changed_parts,
    clip_code,
    dtype_code,
    imports_code,
    merged_networks,
    pipeline_latents,
    stock_scheduler,
    trained_names,
    unchanged_parts,
)
from fewstep.student.loading import Student
from fewstep.student.weights import load_network, save_network
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import parts_of, with_parts
from fewstep.teacher.loading import without_bars
from fewstep.teacher.pipelines.index import read_pipeline_index

INDEX = "model_index.json"
MARK = "_fewstep_export"  # in the index: what tells a student from a teacher even without its contract
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def copy_pipeline(student: Student, folder: Path, networks: Mapping[str, Any], format: str) -> None:
    """Writes all of a pipeline but the folders of `networks`, by their names, which are to be saved there.

    The teacher's folders are copied verbatim, since a newer library may save a tokenizer as another class; the
    scheduler is a stock one with the contract's nodes. An expert that no node uses is left out.
    """
    source, teacher = student.teacher.folder, student.teacher
    scheduler = stock_scheduler(student).make(teacher.pipeline)
    changed = changed_parts(teacher)
    made = {name: ["diffusers", type(part).__name__] for name, part in changed.items()}  # a modular index has them not
    index = (
        made
        | read_pipeline_index(source)
        | {
            "_class_name": student.contract.pipeline,  # that of a modular pipeline has another
            MARK: format,
            **{name: ["diffusers", type(network).__name__] for name, network in networks.items()},
            "scheduler": ["diffusers", type(scheduler).__name__],
        }
    )
    # experts without a node are neither written nor named in the index
    if used := [expert.component for expert in student.contract.experts]:
        index = teacher.index_without(index, [name for name in teacher.component_names().values() if name not in used])
    # unchanged parts are copied as files, never as pickles
    for name, part in index.items():
        if isinstance(part, list) and any(part) and name not in (*networks, *changed, "scheduler"):
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns(*_PICKLES))
    for name, part in {**changed, "scheduler": scheduler}.items():
        part.save_pretrained(folder / name)
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    clip = student.contract.size._asdict() | {"fps": student.contract.fps}
    (folder / "fewstep.json").write_text(json.dumps(clip) + "\n", "utf-8")


def _write(student: Student, folder: Path, options: Options) -> Written:
    networks = merged_networks(student)
    copy_pipeline(student, folder, networks, "diffusers")
    precision = options.precision or "float32"
    for name, network in networks.items():
        save_network(cast(network, precision), folder / name, options.shard)
    usual = "diffusers keeps a pipeline's usual steps and guidance in its code, not in folders: pass both, as above."
    (network,) = networks.values() if len(networks) == 1 else (None,)
    part = None if network is None else trained_part(student, network, precision)
    return Written((usual, *(() if part is None else write_shared(student, cast(part, precision), folder))))


def reload_pipeline(folder: Path, student: Student, dtype: torch.dtype = torch.float32) -> SampleLatents:
    """What the pipeline in the folder samples, computing in this dtype."""
    from diffusers import DiffusionPipeline

    teacher = student.teacher
    loader: Any = DiffusionPipeline
    # weights whose files are copies of the teacher's, such as a text encoder's, are not loaded a second time
    shared = {
        name: part
        for name, part in unchanged_parts(teacher).items()
        if name not in teacher.stock_parts() and getattr(part, "dtype", None) == dtype
    }
    with without_bars():
        pipe = loader.from_pretrained(folder, use_safetensors=True, dtype=dtype, **shared)
    return pipeline_latents(pipe.to(teacher.device), student)


def _network(path: Path, teacher: Teacher) -> nn.Module:
    if teacher.folder == path:
        return teacher.denoiser
    own, components = parts_of(teacher.denoiser), teacher.component_names()
    loaded = {n: load_network(own[n], path / components[n], own[n].dtype) for n in trained_names(read_contract(path))}
    return with_parts(teacher.denoiser, {**own, **loaded})


def pipeline_snippet(student: Student, written: Written) -> str:
    """How the folder is loaded and sampled."""
    return (
        imports_code("DiffusionPipeline")
        + f'\npipe = DiffusionPipeline.from_pretrained("."{dtype_code(written)})  # this folder, or its id on the hub\n'
        + clip_code(student)
    )


FORMATS = {
    "diffusers": Format(
        name="diffusers",
        write=_write,
        reload=reload_pipeline,
        network=_network,
        snippet=pipeline_snippet,
        shards=True,
    )
}
