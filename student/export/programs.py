"""Which formats there are: who writes each, which program it is for, whose students it holds, which extra it needs."""

from __future__ import annotations

from typing import NamedTuple


class Program(NamedTuple):
    """module: the one next to this that holds the format in its FORMATS, loaded only when it is asked for. program: who
    loads it, and how. families: whose students it holds; what is in its way is said when it is asked for. extra: of
    pip, which installs what it is written with."""

    module: str
    program: str
    families: str
    extra: str | None = None


PROGRAMS = {
    "diffusers": Program("diffusers_folder", "diffusers, a whole pipeline for from_pretrained", "all"),
    "lora": Program(
        "lora",
        "diffusers only, for load_lora_weights; in ComfyUI it has no effect, or only a part of it",
        "those whose pipeline loads LoRAs",
    ),
    "comfyui": Program(
        "comfyui",
        "ComfyUI, a whole model or a LoRA with a workflow; diffusers reads the file, too",
        "those whose files and nodes there are known, from prompts",
    ),
    "single-file": Program(
        "single_file",
        "diffusers' from_single_file, and tools that read the original tensor names",
        "those whose original names are known",
    ),
    "part": Program(
        "part_file", "diffusers, only the part that was trained", "those whose users share a part by itself"
    ),
    "torchao-int8": Program("torchao_weights", "diffusers, a whole 8-bit pipeline", "all with one denoiser", "quant"),
    "torchao-fp8": Program("torchao_weights", "diffusers, a whole 8-bit pipeline", "all with one denoiser", "quant"),
    "gguf": Program("gguf_file", "ComfyUI-GGUF, and diffusers' from_single_file, one 8-bit file", "as comfyui", "gguf"),
    "onnx": Program(
        "onnx_graph", "onnxruntime, one forward of the denoiser", "those whose denoiser is one graph", "onnx"
    ),
}


def describe_format(name: str) -> str:
    """One format, in a sentence."""
    entry = PROGRAMS[name]
    return f"{entry.program}; families: {entry.families}" + (f"; extra {entry.extra}" if entry.extra else "")
