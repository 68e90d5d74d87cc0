"""A LoRA as diffusers saves it, for `pipe.load_lora_weights`; of a fully trained student, the nearest one."""

from __future__ import annotations

import json
import re
from operator import attrgetter
from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fewstep.student.adapters import shared_copy
from fewstep.student.contract import read_contract
from fewstep.student.denoiser import STUDENT_ADAPTER
from fewstep.student.export.abilities import lora_loader
from fewstep.student.export.base import Format, Options, SampleLatents, Written
from fewstep.student.export.header import only_file, read_header, read_tensors, write_tensors
from fewstep.student.export.lora_extraction import USUAL_RANK, extract_adapter
from fewstep.student.export.precision import cast_tensors
from fewstep.student.export.stock import (
    base_code,
    can_share_denoisers,
    clip_code,
    dtype_code,
    imports_code,
    pipeline_latents,
    shared_denoisers,
    stock_pipeline,
    stock_scheduler,
    trained_names,
)
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import parts_of, with_parts
from fewstep.teacher.files.json_text import parse_json

LORA_FILE = "pytorch_lora_weights.safetensors"  # what load_lora_weights looks for
_SETTINGS = "lora_adapter_metadata"  # diffusers' name for them in a file's header


def is_adapted(network: nn.Module) -> bool:
    """Whether a student's network is its teacher's with an adapter on it; of experts, whether one is."""
    return any(getattr(part, "peft_config", {}) for part in parts_of(network).values())


def adapter_state(network: Any) -> dict[str, Tensor]:
    """The adapter's tensors under peft's names, without its name in them."""
    (name,) = network.peft_config
    state = get_peft_model_state_dict(network, adapter_name=name)
    return {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def baked_state(network: Any) -> dict[str, Tensor]:
    """The adapter with its scale, alpha / rank, inside lora_B: whoever saves it again without alphas or a header keeps
    its strength."""
    state = adapter_state(network)
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            (scale,) = layer.scaling.values()
            for key in (f"{name}.lora_B.weight", f"{name}.lora_B.bias"):
                if key in state:
                    state[key] = state[key] * scale
    return state


def baked_settings(network: Any, prefix: str) -> dict[str, Any]:
    """peft's settings of `baked_state`, their names behind a prefix: alpha is the rank, everywhere."""
    (config,) = network.peft_config.values()
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    settings |= {"lora_alpha": config.r, "alpha_pattern": config.rank_pattern, "use_rslora": False}
    return {prefix + key: value for key, value in settings.items()}


def with_adapter(
    teacher: Teacher, state: dict[str, Tensor], path: Path, settings: dict[str, Any] | None = None, name: str = ""
) -> nn.Module:
    """The teacher's denoiser, or its expert of this name, with an adapter of diffusers' names; without `settings`,
    alpha is the rank.

    Raises ValueError when the adapter is of another network.
    """
    prefix, base = prefix_of(teacher), parts_of(teacher.denoiser)[name]
    strays = [key for key, tensor in state.items() if not _fits(base, key.removeprefix(f"{prefix}."), tensor)]
    if strays or not state:
        misfit = f"its {strays[0]} does not fit" if strays else "it is empty"
        raise ValueError(
            f"{path} is not a LoRA for {teacher.folder} ({misfit}): use its own teacher (--teacher of `fewstep sample` "
            "and `fewstep export`)"
        )
    # on a copy around the same weights: the teacher's network stays without adapters
    network: Any = shared_copy(base)
    whole = {key: tensor.float() for key, tensor in state.items()}
    network.load_lora_adapter(whole, prefix=prefix, adapter_name=STUDENT_ADAPTER, metadata=settings)
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


def prefix_of(teacher: Teacher) -> str:
    """Of the tensors' names: diffusers takes the first denoiser's for every one of them."""
    return next(iter(teacher.component_names().values()))


def _file_name(name: str) -> str:
    """The file of the network of this name, or of the only one."""
    return LORA_FILE.replace(".", f"_{name}.") if name else LORA_FILE


def _write(student: Student, folder: Path, options: Options) -> Written:
    stock_scheduler(student)  # refuse before the work
    own, networks = parts_of(student.teacher.denoiser), parts_of(student.network)
    held = [
        _write_one(student, own[name], networks[name], folder / _file_name(name), options)
        for name in trained_names(student.contract)
    ]
    extracted = [fraction for fraction in held if fraction is not None]
    notes = [
        f"Extracted by SVD from a fully trained student: rank {options.rank} holds {fraction:.1%} of the change of the "
        "weights, and nothing of that of norms and modulation tables."
        for fraction in extracted
    ]
    return Written(tuple(notes), approximate=bool(extracted), relation="adapter")


def _write_one(student: Student, own: nn.Module, network: Any, path: Path, options: Options) -> float | None:
    """Writes one network's adapter; of one that is extracted, how much of the change of weights it holds."""
    held = None
    if not is_adapted(network):
        assert options.rank is not None
        network, held = extract_adapter(own, network, options.rank)
    prefix = f"{prefix_of(student.teacher)}."
    settings = baked_settings(network, prefix)
    state = {prefix + key: tensor for key, tensor in baked_state(network).items()}
    state = cast_tensors(state, options.precision or "float32")
    metadata = {_SETTINGS: json.dumps(settings, sort_keys=True)}
    write_tensors(path, state, student.contract, "lora", metadata)
    return held


def _loaded_with(student: Student) -> list[tuple[str, dict[str, Any]]]:
    """The pipeline's method that loads a file, and what it takes besides the folder, once for every file."""
    components, prefix = student.teacher.component_names(), prefix_of(student.teacher)
    if not hasattr(student.teacher.pipeline, "load_lora_weights"):  # its denoiser has one, see `lora_loader`
        return [(f"{prefix}.load_lora_adapter", {"weight_name": LORA_FILE, "prefix": prefix})]
    return [
        (
            "load_lora_weights",
            ({"weight_name": _file_name(name)} if name else {})
            | ({f"load_into_{components[name]}": True} if components[name] != prefix else {}),
        )
        for name in trained_names(student.contract)
    ]


def _reload(folder: Path, student: Student) -> SampleLatents:
    shared = shared_denoisers(student.teacher) if can_share_denoisers(student.teacher) else {}
    pipe = stock_pipeline(student, **shared)
    for load, arguments in _loaded_with(student):
        attrgetter(load)(pipe)(folder, **arguments)
    if student.teacher.fuses_lora:
        pipe.fuse_lora()
        pipe.unload_lora_weights()
    return pipeline_latents(pipe, student)


def _network(path: Path, teacher: Teacher) -> nn.Module:
    _, contract = read_header(path) if path.is_file() else ("lora", read_contract(path))
    names = trained_names(contract)
    if path.is_file() and len(names) > 1:
        raise ValueError(f"{path} is of one expert of a student that has {len(names)}: pass the folder with both files")
    files = {name: path / _file_name(name) if len(names) > 1 else only_file(path) for name in names}
    loaded = {name: _adapted(teacher, file, name) for name, file in files.items()}
    return with_parts(teacher.denoiser, {**parts_of(teacher.denoiser), **loaded})


def _adapted(teacher: Teacher, file: Path, name: str) -> nn.Module:
    state, header = read_tensors(file)
    return with_adapter(teacher, state, file, parse_json(header[_SETTINGS]) if _SETTINGS in header else None, name)


def _snippet(student: Student, written: Written) -> str:
    fuse = "pipe.fuse_lora()\npipe.unload_lora_weights()\n" if student.teacher.fuses_lora else ""
    scheduler = stock_scheduler(student).name
    load = "".join(
        f'pipe.{method}("."{_further(arguments)})  # this folder, or its id on the hub\n'
        for method, arguments in _loaded_with(student)
    )
    return (
        imports_code(student.contract.pipeline, scheduler)
        + base_code(student, dtype_code(written))
        + load
        + fuse
        + clip_code(student)
    )


def _further(arguments: dict[str, Any]) -> str:
    return "".join(f", {key}={value!r}" for key, value in arguments.items())


FORMATS = {
    "lora": Format(
        name="lora",
        write=_write,
        reload=_reload,
        network=_network,
        snippet=_snippet,
        lacks=lora_loader,
        adapters=True,
        usual_rank=USUAL_RANK,
        shares_base=True,
    )
}
