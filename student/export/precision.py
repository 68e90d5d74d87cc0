"""In which precision weights leave: that in which the teacher was published, unless another is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from fewstep.student.adapters import shared_copy
from fewstep.student.export.base import ExportPrecision
from fewstep.teacher.base import Teacher
from fewstep.teacher.precision import stays_exact

_STORED: dict[str, ExportPrecision] = {
    "F32": "float32",
    "BF16": "bfloat16",
    "F16": "float16",
}  # in headers of safetensors


def dtype_of(precision: ExportPrecision) -> torch.dtype:
    """torch's own."""
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


def published_precision(teacher: Teacher) -> ExportPrecision:
    """That of most weights in the folder of the teacher's denoiser."""
    return stored_precision(teacher.folder / next(iter(teacher.component_names().values())))


def stored_precision(folder: Path) -> ExportPrecision:
    """That of most of the folder's weights but the 8-bit ones; of its files only headers are read."""
    counts = Counter[str]()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_slice(name)
                if (dtype := tensor.get_dtype()) in _STORED:
                    counts[dtype] += prod(tensor.get_shape())
    return _STORED[counts.most_common(1)[0][0]] if counts else "float32"


def cast(network: Any, precision: ExportPrecision) -> Any:
    """The network as it is stored: its parameters in this precision, but for those that diffusers computes with in
    float32 whatever is asked."""
    if precision == "float32":
        return network
    copy, kept = shared_copy(network), kept_whole(network)
    for name, module in copy.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if f"{name}.{key}".removeprefix(".") not in kept:
                module.register_parameter(key, nn.Parameter(parameter.data.to(dtype_of(precision)), False))
    return copy


def cast_tensors(tensors: Mapping[str, Tensor], precision: ExportPrecision) -> dict[str, Tensor]:
    """A LoRA's tensors as they are stored; alphas, which are no weights, as they are."""
    return {name: x if x.ndim == 0 else round_to(x, precision, name) for name, x in tensors.items()}


def kept_whole(network: Any) -> set[str]:
    """Names of the parameters that diffusers keeps in float32."""
    return {name for name, _ in network.named_parameters() if stays_exact(network, name)}


def round_to(tensor: Tensor, precision: ExportPrecision, name: str) -> Tensor:
    rounded = tensor.to(dtype_of(precision))
    if not torch.equal(rounded.isfinite(), tensor.isfinite()):
        raise ValueError(
            f"{precision} cannot hold {name}, whose largest weight is {float(tensor.abs().max()):.3g}: export it with "
            "--dtype bfloat16 or float32"
        )
    return rounded
