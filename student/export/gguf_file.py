"""The denoiser in one GGUF file in 8-bit blocks (Q8_0), as diffusers and ComfyUI-GGUF load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import single_denoiser
from fewstep.student.export.abilities import comfyui_facts, comfyui_loader, original_names
from fewstep.student.export.base import ExportPrecision, Format, Options, SampleLatents, Written
from fewstep.student.export.comfyui_workflow import architecture_note
from fewstep.student.export.header import header_of, only_file, parse_header
from fewstep.student.export.rounding import choose_layers
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
from fewstep.teacher.loading import without_bars

_TOLERANCE = 1e-2
_KINDS: dict[ExportPrecision, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BLOCK = 32  # weights of a row that share a scale


def read_header(path: Path) -> tuple[str, SamplingContract]:
    """Format and contract of a file. Raises ValueError when it is not whole or lost a line of either."""
    FORMATS["gguf"].check_needs()
    fields = _reader(path).fields
    return parse_header({key: str(field.contents()) for key, field in fields.items()}, path)


def _reader(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        raise ValueError(f"{path} is not a whole GGUF file ({error}): copy or export it again") from error


def _rounded(weight: Tensor) -> Tensor:
    from gguf import GGMLQuantizationType, quants

    blocks = quants.quantize(weight.float().cpu().numpy(), GGMLQuantizationType.Q8_0)
    return torch.from_numpy(quants.dequantize(blocks, GGMLQuantizationType.Q8_0)).to(weight.device)


def _write(student: Student, folder: Path, options: Options) -> Written:
    from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType, quants

    stock_scheduler(student)  # refuse before the work
    network, names = merged_network(student), original_names(student.teacher)
    # as many layers in Q8_0 as the tolerance allows, measured on latents
    chosen = choose_layers(student, network, _TOLERANCE, _rounded, multiple=_BLOCK)
    writer = GGUFWriter(folder / _file_name(student), comfyui_facts(student.teacher).architecture)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0)
    # the contract lies in the file itself
    for key, value in header_of("gguf", student.contract).items():
        writer.add_string(key, value)
    rounded = {f"{name}.weight" for name in chosen.names}
    rest = GGMLQuantizationType[_KINDS[options.precision or "float32"]]
    linears = {f"{name}.weight" for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    for name, tensor in network.state_dict().items():
        usual = rest if name in linears else GGMLQuantizationType.F32  # diffusers reads other layers in no other kind
        kind = GGMLQuantizationType.Q8_0 if name in rounded else usual
        values = quants.quantize(tensor.float().cpu().numpy(), kind)
        writer.add_tensor(names.to_original(name), values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_config(network, folder)
    steps = (
        f"Put `{_file_name(student)}` into `models/unet`, and have the nodes of ComfyUI-GGUF.",
        f"Load it with Unet Loader (GGUF), then ModelSamplingSD3 with shift {student.contract.shift:g}, sampler euler, "
        f"scheduler simple, CFG {student.contract.guidance}, {student.contract.steps} steps, as the workflow of `--to "
        "comfyui` does with a whole model.",
    )
    return Written((chosen.note, *architecture_note(student)), relation="quantized", steps=steps)


def _file_name(student: Student) -> str:
    return f"fewstep-{student.contract.steps}step-Q8_0.gguf"


def _load(file: Path, kind: Any, config: Path, dtype: torch.dtype, **place: str) -> Any:
    """diffusers' own loader."""
    from diffusers import GGUFQuantizationConfig

    quantization = GGUFQuantizationConfig(compute_dtype=dtype)
    with without_bars():
        return kind.from_single_file(
            str(file),
            quantization_config=quantization,
            config=str(config),
            dtype=dtype,
            local_files_only=True,
            **place,
        )


def _reload(folder: Path, student: Student) -> SampleLatents:
    kind = type(single_denoiser(student.teacher))
    network = _load(only_file(folder, ".gguf"), kind, folder, torch.float32)
    return pipeline_latents(stock_pipeline(student, **{denoiser_name(student.teacher): network}), student)


def _network(path: Path, teacher: Teacher) -> nn.Module:
    own, file, names = single_denoiser(teacher), only_file(path, ".gguf"), original_names(teacher)
    # GGUF has dimensions in reverse order
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in _reader(file).tensors}
    wanted = {names.to_original(name): tuple(tensor.shape) for name, tensor in own.state_dict().items()}
    if strays := shapes.items() ^ wanted.items():
        raise ValueError(
            f"{file} is no {type(own).__name__} of the teacher's size (see {min(strays)[0]}): use its own "
            "teacher (--teacher of `fewstep sample` and `fewstep export`)"
        )
    network = _load(file, type(own), teacher.folder, own.dtype, subfolder=denoiser_name(teacher)).to(own.device)
    network.set_attn_processor(own.attn_processors)  # with what the family did to them
    frozen: nn.Module = network.requires_grad_(False)
    return frozen


def _snippet(student: Student, written: Written) -> str:
    kind, name = type(single_denoiser(student.teacher)).__name__, denoiser_name(student.teacher)
    load = (
        f"\n{name} = {kind}.from_single_file(\n"
        f'    "{_file_name(student)}",\n'
        '    config=".",\n'
        f"    quantization_config=GGUFQuantizationConfig(compute_dtype=torch.{written.precision}),\n"
        f"    dtype=torch.{written.precision},\n"
        ")"
    )
    start = imports_code("GGUFQuantizationConfig", student.contract.pipeline, kind, stock_scheduler(student).name)
    return start + load + base_code(student, f", {name}={name}{dtype_code(written)}") + clip_code(student)


FORMATS = {
    "gguf": Format(
        name="gguf",
        write=_write,
        reload=_reload,
        network=_network,
        snippet=_snippet,
        lacks=comfyui_loader,
        tolerance=_TOLERANCE,
        needs=("gguf",),
        extra="gguf",
        makes_another=True,
        is_final=True,
    )
}
