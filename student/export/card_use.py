"""What a model card says of using an export: what to install, how to sample and serve it, what it goes with."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from fewstep.student.contract import SamplingContract, experts_text
from fewstep.student.export.base import Format, Written
from fewstep.student.export.programs import PROGRAMS
from fewstep.student.export.stock import stock_scheduler
from fewstep.student.loading import Student
from fewstep.teacher.experts import parts_of
from fewstep.teacher.given import IMAGES
from fewstep.teacher.source import EMBEDDED

# Class -> the first diffusers that has it; tests/clients/since.py writes it.
_SINCE = Path(__file__).with_name("diffusers_since.json")
LOADS_IN_DTYPE = "from_pretrained(dtype=)"


def install(student: Student, format: Format) -> str:
    """The line of pip, with the least diffusers that has what the snippet uses."""
    if format.library == "onnx" or student.contract.teacher in EMBEDDED:
        extra = f"[{format.extra}]" if format.extra else ""
        return f"```sh\npip install 'fewstep{extra}'\n```"
    module = sys.modules[type(student.teacher.pipeline).__module__]
    further = ["ftfy"] if hasattr(module, "is_ftfy_available") else []
    further += ["peft"] if format.adapters else []
    further += _readers(student)
    further += format.needs
    line = " ".join([f"pip install 'diffusers>={least_diffusers(student)}' transformers accelerate", *further])
    return f"```sh\n{line}\n```"


def _readers(student: Student) -> list[str]:
    """What transformers and diffusers read the snippet's files with, and install only when asked."""
    tokenizers = [path for path in student.teacher.folder.glob("tokenizer*") if path.is_dir()]
    spelled = any(any(path.glob("*.model")) and not (path / "tokenizer.json").is_file() for path in tokenizers)
    videos = [name for name in student.contract.given if name not in IMAGES]
    return [*(["sentencepiece", "protobuf"] if spelled else []), *(["imageio", "imageio-ffmpeg"] if videos else [])]


def least_diffusers(student: Student) -> str:
    """The first version of diffusers that has pipeline and scheduler, and the argument that says the dtype."""
    names = (type(student.teacher.pipeline).__name__, stock_scheduler(student).name, LOADS_IN_DTYPE)
    return max((since()[name] for name in names if name in since()), key=_parts)


@cache
def since() -> dict[str, str]:
    """Class of diffusers, or what else a snippet uses -> the first version that has it."""
    versions: dict[str, str] = json.loads(_SINCE.read_text("utf-8"))
    return versions


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def sampling(student: Student) -> str:
    """How it must be asked, as a list."""
    contract = student.contract
    nodes = ", ".join(f"{timestep:g}" for timestep in (round(t, 2) for t in contract.timesteps))
    return "\n".join(
        (
            f"- steps: {contract.steps}, at timesteps {nodes}",
            *([f"- experts: {experts_text(contract.experts)}"] if contract.experts else ()),
            f"- guidance: {contract.guidance}, which means none: {contract.baked_guidance} is distilled into the "
            "weights"
            + (f", with the negative prompt {contract.negative_prompt!r}" if contract.negative_prompt else ""),
            f"- scheduler: {_scheduler(student)}",
            *(
                f"- size: {size.num_frames} frames of {size.width} x {size.height} pixels, {contract.fps:g} frames per "
                "second"
                for size in contract.sizes
            ),
            "- `contract.json` has all of this for programs; `fewstep sample` follows it automatically",
        )
    )


def _scheduler(student: Student) -> str:
    try:
        return f"`{stock_scheduler(student).code}`{_euler(student)}"
    except ValueError as error:  # formats whose steps the caller takes do without one
        return f"none of diffusers: {error}"


def _euler(student: Student) -> str:
    """Where schedules end short of pure noise, which most of their users sample with Euler."""
    scale = float(student.teacher.schedule.sigma(1.0))
    if student.contract.kind != "vp" or scale == 1:
        return ""
    return f"; EulerDiscrete scales the noise by {scale:.4f}, so that it gives slightly other clips"


def serving(student: Student, format: Format) -> str:
    """Lines for `pipe` that serve it faster or in less memory; empty where there is no pipeline."""
    if format.library != "diffusers":
        return ""
    names = [name for name in student.teacher.component_names().values() if hasattr(student.teacher.pipeline, name)]
    networks: dict[str, Any] = dict(zip(names, parts_of(student.teacher.denoiser).values(), strict=False))
    lines = ["pipe.enable_model_cpu_offload()  # instead of pipe.to(...): a part is on the GPU only while it is used"]
    # diffusers lists the blocks of a network that repeat: one is compiled for all of them
    for name, network in networks.items():
        blocks = getattr(network, "_repeated_blocks", None)
        lines.append(
            f"pipe.{name}.compile_repeated_blocks()  # one block is compiled and reused for all"
            if blocks
            else f"pipe.{name}.compile()"
        )
    if format.extra is None:
        lines += [
            "",
            "from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pip install torchao",
            *(f"quantize_(pipe.{name}, Int8WeightOnlyConfig())  # 8-bit weights" for name in networks),
        ]
    fuse = "A LoRA is faster once fused, with `pipe.fuse_lora()`, before any of the following. " * (
        format.adapters and hasattr(student.teacher.pipeline, "fuse_lora")
    )
    return f"{fuse}Each of these can be used on its own; none was measured with this student:\n\n{_code(lines)}"


def lora_combination(student: Student, format: Format, written: Written) -> str:
    """How a LoRA goes together with another one; empty where this is none."""
    teacher = student.teacher
    if not format.adapters or written.relation != "adapter" or not hasattr(teacher.pipeline, "load_lora_weights"):
        return ""
    if teacher.fuses_lora:
        return (
            "Fuse this one first, as above, then load the other. Not tried: how much of another LoRA's style is left "
            f"at {student.contract.steps} steps."
        )
    return (
        "Load both with names, this one at full weight: with less, the student no longer works at its few steps.\n\n"
        + _code(
            (
                'pipe.load_lora_weights(".", adapter_name="fewstep")  # with the further arguments from above',
                'pipe.load_lora_weights("ORG/STYLE", adapter_name="style")',
                'pipe.set_adapters(["fewstep", "style"], [1.0, 0.8])',
            )
        )
        + "\n\nTried on tiny pipelines of random weights: both add up in either order, and a weight of 0 removes "
        "the other one. Not tried: how much of another LoRA's style is left at "
        f"{student.contract.steps} steps."
    )


def _code(lines: Sequence[str]) -> str:
    """Code besides the snippet, which alone runs as it stands."""
    return "\n".join(("```py", *lines, "```"))


def stored_weights(written: Written) -> str:
    """Those that are in the export's precision."""
    return "weights that are not 8-bit" if written.relation == "quantized" else "weights"


def limits(contract: SamplingContract, format: Format, written: Written) -> list[str]:
    """What it cannot do, or was not looked at for."""
    sizes = " or ".join(f"{size.num_frames} frames of {size.width} x {size.height}" for size in contract.sizes)
    compared = written.precision if format.computes_as_stored or written.precision in format.computes else "float32"
    return [
        f"It was trained for {contract.steps} steps at the nodes above, without guidance, and for clips of {sizes}; "
        "with any other settings its clips are worse.",
        f"The file is for {PROGRAMS[format.name].program}.",
        f"Its {stored_weights(written)} are in {written.precision}; it was compared in {compared}, so "
        "computing in another precision adds rounding to the error above.",
        "It has the faults of its base model.",
    ]
