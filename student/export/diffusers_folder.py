"""A plain diffusers pipeline folder: `DiffusionPipeline.from_pretrained` needs nothing of ours to sample from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from fewstep.student.denoiser import the_denoiser
from fewstep.student.export.base import Format, Latents, Options, Written
from fewstep.student.export.stock import (
    clip_code,
    denoiser_name,
    imports_code,
    merged_network,
    pipeline_latents,
    stock_scheduler,
)
from fewstep.student.loading import Student
from fewstep.student.weights import load_network, save_network
from fewstep.teacher.base import Teacher
from fewstep.teacher.loading import without_bars
from fewstep.teacher.pipeline_index import read_pipeline_index

INDEX = "model_index.json"
MARK = "_fewstep_export"  # in the index: what tells a student from a teacher even without its contract
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def copy_pipeline(student: Student, folder: Path, network: Any, format: str) -> Path:
    """Writes all of a pipeline but its denoiser's folder, which is returned: `network` is to be saved there.

    The teacher's folders are copied verbatim, since a newer library may save a tokenizer as another class; the
    scheduler is a stock one with the contract's nodes.
    """
    source, denoiser = student.teacher.folder, denoiser_name(student.teacher)
    scheduler = stock_scheduler(student).make(student.teacher.pipeline)
    index = read_pipeline_index(source) | {
        "_class_name": student.contract.pipeline,  # that of a modular pipeline has another
        MARK: format,
        denoiser: ["diffusers", type(network).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
    }
    for name, part in index.items():
        if isinstance(part, list) and any(part) and name not in (denoiser, "scheduler"):
            shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns(*_PICKLES))
    scheduler.save_pretrained(folder / "scheduler")
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    clip = student.contract.size._asdict() | {"fps": student.contract.fps}
    (folder / "fewstep.json").write_text(json.dumps(clip) + "\n", "utf-8")
    return folder / denoiser


def _write(student: Student, folder: Path, options: Options) -> Written:
    network = merged_network(student)
    save_network(network, copy_pipeline(student, folder, network, "diffusers"))
    return Written(
        ("diffusers keeps a pipeline's usual steps and guidance in its code, not in folders: pass both, as above.",)
    )


def _reload(folder: Path, student: Student) -> Latents:
    from diffusers import DiffusionPipeline

    loader: Any = DiffusionPipeline
    with without_bars():
        pipe = loader.from_pretrained(folder, use_safetensors=True)
    return pipeline_latents(pipe.to(student.teacher.device), student)


def _network(path: Path, teacher: Teacher) -> nn.Module:
    own = the_denoiser(teacher)
    return own if teacher.folder == path else load_network(own, path / denoiser_name(teacher), own.dtype)


def _snippet(student: Student) -> str:
    return (
        imports_code("DiffusionPipeline")
        + '\npipe = DiffusionPipeline.from_pretrained(".")  # this folder, or its id on the hub\n'
        + clip_code(student)
    )


FORMATS = {
    "diffusers": Format(
        name="diffusers",
        write=_write,
        reload=_reload,
        network=_network,
        snippet=_snippet,
    )
}
