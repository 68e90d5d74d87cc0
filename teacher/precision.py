"""Which precision `auto` means: bfloat16 where the device computes in it natively, else float32."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

Precision = Literal["float32", "bfloat16"]
AUTO = "auto"

# Each may keep a CPU's instructions from being used, so that what the CPU has says nothing any more.
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
_PROBE_SECONDS, _PROBE_ROUNDS = 0.5, 5
_MAX_SLOWDOWN = 0.9  # bfloat16 must be this much faster in the probe: at equal speed float32 is the more exact


@dataclass(frozen=True)
class AutoPrecision:
    """What `auto` means on a device, and why, in words."""

    precision: Precision
    reason: str


@dataclass(frozen=True)
class Choice:
    """The precision to compute in, and what the user should read of it; None where nothing needs to be said."""

    precision: str
    line: str | None


def choose_precision(requested: str, device: torch.device, begun: str | None = None) -> Choice:
    """What `requested` means on this device: itself, or for `auto` what `begun` says, else `auto_precision`.

    `begun` is the precision of what is resumed, if anything is. `auto` chooses once: figures and weights of two
    precisions are never mixed. The line also warns of bfloat16 where it is slow.
    """
    # nothing was begun: `auto` is decided here, once, and the user reads why
    if requested == AUTO and begun is None:
        auto = auto_precision(device)
        return Choice(auto.precision, f"precision: {auto.precision} (auto: {auto.reason})")
    precision = requested if begun is None or requested != AUTO else begun
    # asked for by name, or kept from the run that is resumed: said only where it is slow, or was `auto`
    slow = precision == "bfloat16" and auto_precision(device).precision != precision
    warning = f"slow here, for {auto_precision(device).reason}" if slow else None
    if requested == AUTO:
        kept = f"precision: {precision} (auto: resumed in what it was begun in"
        return Choice(precision, f"{kept}; {warning})" if warning else f"{kept})")
    return Choice(precision, f"precision: {precision} ({warning}; auto would choose float32)" if warning else None)


def stays_exact(network: nn.Module, name: str, dtype: torch.dtype | None = None) -> bool:
    """Whether diffusers keeps the network's module or parameter of this name in float32, whatever is asked;
    transformers does so for float16 alone. dtype: what is asked, where that is known."""
    words = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    return bool(words & set(name.split("."))) and (dtype in (None, torch.float16) or not _is_of_transformers(network))


def _is_of_transformers(network: nn.Module) -> bool:
    from transformers import PreTrainedModel

    return isinstance(network, PreTrainedModel)


@cache
def auto_precision(device: torch.device) -> AutoPrecision:
    """What `auto` means on this device: the GPU's or the CPU's own word, else a probe of at most about a second."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        if native:
            return AutoPrecision("bfloat16", "the GPU has it")
        return AutoPrecision("float32", "the GPU lacks bfloat16")
    instructions = _cpu_instructions() if device.type == "cpu" else None
    if instructions is not None:
        return AutoPrecision("bfloat16", f"the CPU has {instructions}")
    # neither a GPU nor a CPU that names its instructions: one layer of a transformer is timed in both dtypes
    slowdown = probe(device)
    if slowdown is None:
        return AutoPrecision("float32", f"{device.type} cannot compute in bfloat16")
    ratio = f"bfloat16 takes {slowdown:.2g} times as long as float32"
    return AutoPrecision("bfloat16" if slowdown <= _MAX_SLOWDOWN else "float32", ratio)


def _cpu_instructions() -> str | None:
    """The CPU's instructions for bfloat16; None where it has none, or an environment variable may switch them off."""
    if any(name in os.environ for name in _LIMITS):
        return None
    cpu: Any = torch.cpu
    for name, supported in (("AMX", "_is_amx_tile_supported"), ("AVX512-BF16", "_is_avx512_bf16_supported")):
        if getattr(cpu, supported, bool)():  # torch's own, which another release may lack
            return name
    return None


def probe(device: torch.device) -> float | None:
    """How many times as long a transformer's layer takes in bfloat16 as in float32; None if it takes no bfloat16.

    The least of a few rounds in turn, so that a busy machine does not decide.
    """
    least = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    try:
        inputs = {dtype: _layer_inputs(device, dtype) for dtype in least}
        began = time.perf_counter()
        for _ in range(_PROBE_ROUNDS):
            for dtype, tensors in inputs.items():
                least[dtype] = min(least[dtype], _layer_seconds(tensors))
            if time.perf_counter() - began > _PROBE_SECONDS:
                break
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return None
    return least[torch.bfloat16] / least[torch.float32]


def _layer_inputs(device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """Tokens, and the matrices there and back: a sixth of the embedded teacher on eight clips."""
    return [torch.full(size, 0.01, device=device, dtype=dtype) for size in ((8, 80, 256), (768, 256), (256, 768))]


@torch.no_grad()
def _layer_seconds(tensors: list[torch.Tensor]) -> float:
    began = time.perf_counter()
    tokens, up, down = tensors
    heads = F.linear(tokens, up).view(8, 80, 3, 2, 128).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(tokens.shape)
    mixed = F.layer_norm(mixed, mixed.shape[-1:])
    F.linear(F.gelu(F.linear(mixed, up)), down).sum().item()  # .item() waits for the device
    return time.perf_counter() - began
