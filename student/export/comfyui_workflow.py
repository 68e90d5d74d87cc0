"""A ComfyUI workflow that samples a student as it was trained, and what to know of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import single_denoiser
from fewstep.student.export.abilities import comfyui_facts
from fewstep.student.export.base import PROBE_PROMPTS
from fewstep.student.loading import Student
from fewstep.teacher.schedule import shift_time

_TABLE = 1000  # sigmas in ComfyUI's ModelSamplingSD3
_NEAR = 1e-3  # of two nodes


def simple_nodes(shift: float, steps: int) -> list[float]:
    """ComfyUI's `simple` scheduler: sigmas at even distances in a table of 1000, rounded down, and 0."""
    return [shift_time(1 - int(i * _TABLE / steps) / _TABLE, shift) for i in range(steps)] + [0.0]


def workflow(student: Student, file: str, is_lora: bool) -> dict[str, Any]:
    """ComfyUI's API format: load it with drag and drop, or post it as `prompt`."""
    contract, own = student.contract, comfyui_facts(student.teacher)
    noise, empty = own.noise
    num_frames, height, width = contract.size
    size = {"width": width, "height": height, "length": num_frames, "batch_size": 1}
    base = {"unet_name": base_file(contract) if is_lora else file, "weight_dtype": "default"}
    lora = {"model": ["model", 0], "lora_name": file, "strength_model": 1.0}
    # model, LoRA, shift, sampler, autoencoder, file: an input names the node that it comes from, and which output
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "model": ("UNETLoader", base),
        **({"lora": ("LoraLoaderModelOnly", lora)} if is_lora else {}),
        "shift": ("ModelSamplingSD3", {"model": ["lora" if is_lora else "model", 0], "shift": contract.shift}),
        "text": own.text_encoder,
        "vae": own.vae,
        "positive": ("CLIPTextEncode", {"clip": ["text", 0], "text": PROBE_PROMPTS[0]}),
        # without effect at CFG 1; it says what is inside the weights
        "negative": ("CLIPTextEncode", {"clip": ["text", 0], "text": contract.negative_prompt}),
        "noise": (noise, {**empty, **size}),
        # Euler steps on the nodes of `simple`, which are the student's but for rounding (`node_note`)
        "sample": (
            "KSampler",
            {
                "model": ["shift", 0],
                "positive": ["positive", 0],
                "negative": ["negative", 0],
                "latent_image": ["noise", 0],
                "seed": 0,
                "steps": contract.steps,
                "cfg": contract.guidance.weight,
                "sampler_name": "euler",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        ),
        "decode": ("VAEDecode", {"samples": ["sample", 0], "vae": ["vae", 0]}),
        "video": ("CreateVideo", {"images": ["decode", 0], "fps": contract.fps}),
        "save": ("SaveVideo", {"video": ["video", 0], "filename_prefix": "fewstep", "format": "mp4", "codec": "h264"}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


def base_file(contract: SamplingContract) -> str:
    """What a workflow calls the base model's file, which users may have under another name."""
    return f"{Path(contract.teacher).name}.safetensors"


def named_files(student: Student, is_lora: bool) -> str:
    """The files of others that a workflow names, and the folders of ComfyUI's models where they lie."""
    own = comfyui_facts(student.teacher)
    (text,), (vae,) = (
        [value for value in node[1].values() if str(value).endswith(".safetensors")]
        for node in (own.text_encoder, own.vae)
    )
    base = f"{base_file(student.contract)} (base model, diffusion_models), " if is_lora else ""
    return f"{base}{text} (text encoder, text_encoders) and {vae} (autoencoder, vae)"


def node_note(contract: SamplingContract) -> list[str]:
    """Of steps whose nodes ComfyUI rounds, the exact ones."""
    nodes = simple_nodes(contract.shift, contract.steps)
    apart = max(abs(a - b) for a, b in zip(nodes, contract.times, strict=True))
    if apart <= _NEAR:
        return []
    exact = ", ".join(f"{time:.4f}" for time in contract.times)
    return [
        f"ComfyUI's simple scheduler rounds its nodes by up to {apart:.1g} at {contract.steps} steps: a ManualSigmas "
        f"node takes the exact ones, {exact}."
    ]


def architecture_note(student: Student) -> list[str]:
    """What ComfyUI takes for granted of such a file and its autoencoder, and this student's are not."""
    other = list(_differences(student))
    if not other:
        return []
    return [
        f"ComfyUI reads a {comfyui_facts(student.teacher).model} file as one with {', '.join(other)}; this student's "
        "differ, so it will not run there as it was trained."
    ]


def _differences(student: Student) -> Iterator[str]:
    own = comfyui_facts(student.teacher)
    parts = (
        ("", single_denoiser(student.teacher), own.expected),
        ("vae.", student.teacher.pipeline.vae, own.expected_vae),
    )
    for prefix, part, expected in parts:
        for name, value in expected.items():
            if _plain(part.config.get(name)) != value:
                yield f"{prefix}{name} {value}"


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
