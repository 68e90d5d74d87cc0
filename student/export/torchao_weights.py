"""8-bit weights by torchao, int8 or float8 (e4m3), in a pipeline folder that diffusers loads by itself."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from fewstep.student.denoiser import single_denoiser
from fewstep.student.export.base import ExportPrecision, Format, Options, SampleLatents, Written
from fewstep.student.export.diffusers_folder import copy_pipeline, pipeline_snippet, reload_pipeline
from fewstep.student.export.precision import dtype_of, stored_precision
from fewstep.student.export.rounding import choose_layers
from fewstep.student.export.stock import denoiser_name, merged_network
from fewstep.student.few_bits import weight_config
from fewstep.student.loading import Student
from fewstep.student.weights import load_network, save_network
from fewstep.teacher.base import Teacher
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.loading import without_bars

INT8, FP8 = "torchao-int8", "torchao-fp8"
_QUANTIZATION = "quantization_config"  # what diffusers calls it in a config
_TOLERANCE = {INT8: 1e-2, FP8: 3e-2}
# torchao multiplies by float8 weights in the dtype they had: bfloat16 is what diffusers loads them for by default.
_PRECISIONS: dict[str, tuple[ExportPrecision, ...]] = {INT8: ("float32", "bfloat16", "float16"), FP8: ("bfloat16",)}
_COMPUTES: dict[str, tuple[ExportPrecision, ...]] = {
    INT8: ("bfloat16", "float16"),
    FP8: (),
}  # float8's tolerance has it in

# It warns that int8 goes with bfloat16 only, where float32 is what keeps the latents close.
logging.getLogger("diffusers.quantizers.torchao.torchao_quantizer").setLevel(logging.ERROR)


def _config(name: str) -> Any:
    return weight_config("int8" if name == INT8 else "fp8", name)


def _rounded(weight: Tensor, name: str, precision: ExportPrecision) -> Tensor:
    from torchao.quantization import quantize_

    rows, columns = weight.shape
    # torchao quantizes modules: a layer around this weight alone
    layer = nn.Linear(columns, rows, bias=False, device="meta")
    layer.weight = nn.Parameter(weight.to(dtype_of(precision)), requires_grad=False)
    quantize_(layer, _config(name))
    quantised: Any = layer.weight
    return quantised.dequantize()


def _quantized(network: Any, name: str, chosen: tuple[str, ...], folder: Path, precision: ExportPrecision) -> Any:
    """The network as diffusers itself quantizes it."""
    from diffusers import TorchAoConfig

    # whole names of weights: that of a module, such as proj_out, would keep every module that ends so as well
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    kept = [f"{name}.weight" for name in linears if name not in chosen]
    # diffusers quantizes while it loads, so the network is saved whole first
    with TemporaryDirectory(dir=folder) as whole, without_bars():
        save_network(network, Path(whole))
        quantized = type(network).from_pretrained(
            whole,
            use_safetensors=True,
            dtype=dtype_of(precision),
            quantization_config=TorchAoConfig(_config(name), modules_to_not_convert=kept),
        )
    done = {n for n in linears if hasattr(quantized.get_submodule(n).weight, "qdata")}
    assert done == set(chosen), f"diffusers put other layers into 8 bits: {sorted(done ^ set(chosen))}"
    return quantized


def _write(student: Student, folder: Path, options: Options, name: str) -> Written:
    network, precision = merged_network(student), options.precision or _PRECISIONS[name][0]
    chosen = choose_layers(student, network, _TOLERANCE[name], partial(_rounded, name=name, precision=precision))
    component = denoiser_name(student.teacher)
    copy_pipeline(student, folder, {component: network}, name)
    save_network(_quantized(network, name, chosen.names, folder, precision), folder / component, options.shard)
    return Written((chosen.note,), relation="quantized")


def _reload(folder: Path, student: Student) -> SampleLatents:
    return reload_pipeline(folder, student, dtype_of(stored_precision(folder / denoiser_name(student.teacher))))


def _network(path: Path, teacher: Teacher, name: str) -> nn.Module:
    own, folder = single_denoiser(teacher), path / denoiser_name(teacher)
    if _QUANTIZATION not in parse_json((folder / "config.json").read_text("utf-8")):
        raise ValueError(f"{folder} holds no weights of torchao: export the student again")
    return load_network(own, folder, dtype_of(stored_precision(folder)))


def _format(name: str) -> Format:
    return Format(
        name=name,
        write=partial(_write, name=name),
        reload=_reload,
        network=partial(_network, name=name),
        snippet=pipeline_snippet,
        tolerance=_TOLERANCE[name],
        needs=("torchao",),
        extra="quant",
        precisions=_PRECISIONS[name],
        computes=_COMPUTES[name],
        computes_as_stored=True,
        shards=True,
        makes_another=True,
        is_final=True,
    )


FORMATS = {name: _format(name) for name in (INT8, FP8)}
