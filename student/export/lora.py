"""A LoRA as diffusers saves it, for `pipe.load_lora_weights`; of a fully trained student, the nearest one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from torch import Tensor, nn

from fewstep.student.adapters import shared_copy
from fewstep.student.denoiser import ADAPTER, the_denoiser
from fewstep.student.export.abilities import lora_loader
from fewstep.student.export.base import Format, Latents, Options, Written
from fewstep.student.export.header import only_file, read_tensors, write_tensors
from fewstep.student.export.lora_extraction import extract_adapter
from fewstep.student.export.stock import (
    base_code,
    clip_code,
    denoiser_name,
    imports_code,
    pipeline_latents,
    stock_pipeline,
    stock_scheduler,
)
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher

FILE_NAME = "pytorch_lora_weights.safetensors"  # what load_lora_weights looks for
_SETTINGS = "lora_adapter_metadata"  # diffusers' name for them in a file's header


def is_adapted(network: Any) -> bool:
    """Whether a student's network is its teacher's with an adapter on it."""
    return bool(getattr(network, "peft_config", {}))


def adapter_state(network: Any) -> dict[str, Tensor]:
    """The adapter's tensors under peft's names, without its name in them."""
    (name,) = network.peft_config
    state = get_peft_model_state_dict(network, adapter_name=name)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def with_adapter(
    teacher: Teacher, state: dict[str, Tensor], path: Path, settings: dict[str, Any] | None = None
) -> nn.Module:
    """The teacher's denoiser with an adapter of diffusers' names; without `settings`, alpha is the rank.

    Raises ValueError when the adapter is of another network.
    """
    prefix, base = denoiser_name(teacher), the_denoiser(teacher)
    strays = [key for key, tensor in state.items() if not _fits(base, key.removeprefix(f"{prefix}."), tensor)]
    if strays or not state:
        found = f"its {strays[0]} does not fit" if strays else "it is empty"
        raise ValueError(
            f"{path} is no LoRA for {teacher.folder} ({found}): use its own teacher (--teacher of `fewstep sample` and "
            "`fewstep export`)"
        )
    network: Any = shared_copy(base)
    network.load_lora_adapter(state, prefix=prefix, adapter_name=ADAPTER, metadata=settings)
    return network.requires_grad_(False)


def _fits(base: nn.Module, key: str, tensor: Tensor) -> bool:
    match = re.fullmatch(r"(.+)\.lora_([AB])\.(weight|bias)", key)
    try:
        layer: Any = base.get_submodule(match[1] if match else "")
    except AttributeError:
        return False
    if match is None or not hasattr(layer, "weight"):
        return False
    return tensor.shape[1:] == layer.weight.shape[1:] if match[2] == "A" else len(tensor) == len(layer.weight)


def _write(student: Student, folder: Path, options: Options) -> Written:
    stock_scheduler(student)  # refuse before the work
    network: Any = student.network
    notes: tuple[str, ...] = ()
    extracted = not is_adapted(network)
    if extracted:
        network, held = extract_adapter(the_denoiser(student.teacher), network, options.rank)
        notes = (
            f"Extracted by SVD from a fully trained student: rank {options.rank} holds {held:.1%} of the change of the "
            "weights, and nothing of the change of norms and modulation tables.",
        )
    prefix = f"{denoiser_name(student.teacher)}."
    (config,) = network.peft_config.values()
    settings = {f"{prefix}{k}": sorted(v) if isinstance(v, set) else v for k, v in config.to_dict().items()}
    state = {prefix + key: tensor for key, tensor in adapter_state(network).items()}
    metadata = {_SETTINGS: json.dumps(settings, sort_keys=True)}
    write_tensors(folder / FILE_NAME, state, student.contract, "lora", metadata)
    return Written(notes, approximate=extracted, relation="adapter")


def _reload(folder: Path, student: Student) -> Latents:
    pipe = stock_pipeline(student)
    pipe.load_lora_weights(folder)
    if student.teacher.fuses_lora:
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    return pipeline_latents(pipe, student)


def _network(path: Path, teacher: Teacher) -> nn.Module:
    file = only_file(path)
    state, header = read_tensors(file)
    return with_adapter(teacher, state, file, json.loads(header[_SETTINGS]) if _SETTINGS in header else None)


def _snippet(student: Student) -> str:
    fuse = "pipe.fuse_lora()\npipe.unload_lora_weights()\n" if student.teacher.fuses_lora else ""
    scheduler = stock_scheduler(student).name
    load = 'pipe.load_lora_weights(".")  # this folder, or its id on the hub\n'
    return imports_code(student.contract.pipeline, scheduler) + base_code(student) + load + fuse + clip_code(student)


FORMATS = {
    "lora": Format(
        name="lora",
        write=_write,
        reload=_reload,
        network=_network,
        snippet=_snippet,
        lacks=lora_loader,
    )
}
