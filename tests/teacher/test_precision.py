"""What `auto` means on a device, and what a resume makes of it."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import T5Config, T5EncoderModel

from fewstep.teacher import precision
from fewstep.teacher.precision import AutoPrecision, auto_precision, choose_precision, probe, stays_exact

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NATIVE = AutoPrecision("bfloat16", "the CPU has AVX512-BF16")
SLOW = AutoPrecision("float32", "bfloat16 takes 4.2 times as long as float32")


@pytest.fixture(autouse=True)
def plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for bfloat16 and no limits in the environment."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    auto_precision.cache_clear()


@pytest.mark.parametrize(
    ("name", "text"), [("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX512-BF16")]
)
def test_a_cpu_with_instructions_for_bfloat16_needs_no_probe(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, name, lambda: True)
    monkeypatch.setattr(precision, "probe", lambda device: pytest.fail("probed"))
    assert auto_precision(CPU) == AutoPrecision("bfloat16", f"the CPU has {text}")


@pytest.mark.parametrize("limit", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"])
def test_instructions_that_the_environment_may_switch_off_are_probed(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setenv(limit, "AVX2")
    monkeypatch.setattr(precision, "probe", lambda device: 4.2)
    assert auto_precision(CPU) == SLOW


@pytest.mark.parametrize(
    ("slowdown", "chosen"),
    [(0.4, "bfloat16"), (0.89, "bfloat16"), (0.95, "float32"), (1.0, "float32"), (7.0, "float32"), (None, "float32")],
)
def test_a_probe_decides_where_nothing_is_known(
    slowdown: float | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "probe", lambda device: slowdown)
    assert auto_precision(CPU).precision == chosen
    assert auto_precision(torch.device("mps")).precision == chosen


def test_torch_without_a_word_about_the_cpu_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    monkeypatch.setattr(precision, "probe", lambda device: 0.5)
    assert auto_precision(CPU) == AutoPrecision("bfloat16", "bfloat16 takes 0.5 times as long as float32")


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_is_asked_without_its_emulation(native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert auto_precision(CUDA).precision == chosen


def test_the_probe_compares_and_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    slowdown = probe(CPU)
    assert slowdown is not None and slowdown > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_a_device_that_cannot_compute_in_bfloat16_has_no_slowdown(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tensors: list[torch.Tensor]) -> float:
        if tensors[0].dtype == torch.bfloat16:
            raise TypeError("MPS BFloat16 is only supported on MacOS 14 or newer")
        return 1.0

    monkeypatch.setattr(precision, "_layer_seconds", refuse)
    assert probe(CPU) is None


def test_what_is_resumed_keeps_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "auto_precision", lambda device: NATIVE)
    assert choose_precision("auto", CPU).line == "precision: bfloat16 (auto: the CPU has AVX512-BF16)"
    kept = choose_precision("auto", CPU, begun="float32")
    assert (kept.precision, kept.line) == ("float32", "precision: float32 (auto: resumed in what it was begun in)")
    assert choose_precision("auto", CPU, begun="float16").precision == "float16"


def test_bfloat16_where_it_is_slow_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "auto_precision", lambda device: SLOW)
    assert choose_precision("auto", CPU).precision == "float32"
    kept, explicit = choose_precision("auto", CPU, begun="bfloat16"), choose_precision("bfloat16", CPU)
    assert kept.precision == explicit.precision == "bfloat16"
    assert kept.line == (
        "precision: bfloat16 (auto: resumed in what it was begun in; slow here, for bfloat16 takes 4.2 times as long "
        "as float32)"
    )
    assert explicit.line is not None and "slow here" in explicit.line and "auto would choose float32" in explicit.line


@pytest.mark.parametrize("arguments", ["float32", "float16"])
def test_another_precision_is_taken_at_its_word(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "auto_precision", lambda device: pytest.fail("nobody asked"))
    assert choose_precision(arguments, CPU, begun="bfloat16") == precision.Choice(arguments, None)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="oneDNN's limit is of x86")
def test_a_processor_that_emulates_bfloat16_computes_in_float32() -> None:
    code = "import torch; from fewstep.teacher.precision import *; print(auto_precision(torch.device('cpu')).precision)"
    limited = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=limited)
    assert done.stdout.strip() == "float32"


def test_what_stays_in_float32_is_named_by_parts_of_names() -> None:
    network = nn.Linear(2, 2)
    assert not stays_exact(network, "norm2.weight")
    network._keep_in_fp32_modules = ["norm2"]  # type: ignore[assignment]
    assert stays_exact(network, "blocks.0.norm2.weight") and stays_exact(network, "norm2", torch.bfloat16)
    assert not stays_exact(network, "blocks.0.norm21.weight")


def test_transformers_keeps_float32_for_float16_alone() -> None:
    encoder = T5EncoderModel(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=8))
    name = next(name for name, _ in encoder.named_modules() if name.endswith(".wo"))
    assert stays_exact(encoder, name) and stays_exact(encoder, name, torch.float16)
    assert not stays_exact(encoder, name, torch.bfloat16) and not stays_exact(encoder, name, torch.float32)
