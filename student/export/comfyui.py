"""What ComfyUI loads: original key names, a LoRA or a whole model, with a workflow that samples it as trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import the_denoiser
from fewstep.student.export.abilities import comfyui_facts, comfyui_loader, lora_loader, original_names
from fewstep.student.export.base import PROMPTS, Format, Latents, Options, Written
from fewstep.student.export.header import only_file, read_tensors, write_tensors
from fewstep.student.export.lora import adapter_state, is_adapted, with_adapter
from fewstep.student.export.single_file import (
    checkpoint_name,
    checkpoint_snippet,
    load_checkpoint,
    reload_checkpoint,
    write_checkpoint,
)
from fewstep.student.export.stock import (
    base_code,
    clip_code,
    imports_code,
    pipeline_latents,
    stock_pipeline,
    stock_scheduler,
)
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher
from fewstep.teacher.schedule import shift_time

WORKFLOW = "workflow.json"
_TABLE = 1000  # sigmas in ComfyUI's ModelSamplingSD3
_NEAR = 1e-3  # of two nodes
CHECKPOINT_PREFIX = "model.diffusion_model."  # what ComfyUI looks for in a whole model, and strips
LORA_PREFIX = "diffusion_model."  # and in a LoRA


def simple_nodes(shift: float, steps: int) -> list[float]:
    """ComfyUI's `simple` scheduler: sigmas at even distances in a table of 1000, rounded down, and 0."""
    return [shift_time(1 - int(i * _TABLE / steps) / _TABLE, shift) for i in range(steps)] + [0.0]


def workflow(student: Student, file: str) -> dict[str, Any]:
    """ComfyUI's API format: load it with drag and drop, or post it as `prompt`."""
    contract, is_lora, own = student.contract, is_adapted(student.network), comfyui_facts(student.teacher)
    noise, empty = own.noise
    num_frames, height, width = contract.size
    size = {"width": width, "height": height, "length": num_frames, "batch_size": 1}
    base = {"unet_name": Path(contract.teacher).name + ".safetensors" if is_lora else file, "weight_dtype": "default"}
    lora = {"model": ["model", 0], "lora_name": file, "strength_model": 1.0}
    nodes: dict[str, tuple[str, dict[str, Any]]] = {
        "model": ("UNETLoader", base),
        **({"lora": ("LoraLoaderModelOnly", lora)} if is_lora else {}),
        "shift": ("ModelSamplingSD3", {"model": ["lora" if is_lora else "model", 0], "shift": contract.shift}),
        "text": own.text_encoder,
        "vae": own.vae,
        "positive": ("CLIPTextEncode", {"clip": ["text", 0], "text": PROMPTS[0]}),
        "negative": ("CLIPTextEncode", {"clip": ["text", 0], "text": ""}),  # without effect at CFG 1
        "noise": (noise, {**empty, **size}),
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


def _lacks(teacher: Teacher) -> str:
    return comfyui_loader(teacher) or lora_loader(teacher)


def _write(student: Student, folder: Path, options: Options) -> Written:
    stock_scheduler(student)  # refuse before the work
    contract, is_lora, own = student.contract, is_adapted(student.network), comfyui_facts(student.teacher)
    file = folder / _file_name(student)
    if is_lora:
        state = original_names(student.teacher).original(_scaled_state(student.network), LORA_PREFIX)
        write_tensors(file, state, contract, "comfyui")
    else:
        write_checkpoint(student, folder, "comfyui", CHECKPOINT_PREFIX)
    (folder / WORKFLOW).write_text(json.dumps(workflow(student, file.name), indent=1) + "\n", "utf-8")
    where = "models/loras" if is_lora else "models/diffusion_models"
    notes = [
        f"For ComfyUI: put {file.name} into {where}, load {WORKFLOW} and choose your own files of text encoder"
        f"{', base model' * is_lora} and autoencoder in it. It sets ModelSamplingSD3 shift {contract.shift:g} "
        f"({own.model}'s default there is {own.shift:g}), sampler euler, scheduler simple, CFG {contract.guidance} and "
        f"{contract.steps} steps.",
        *_node_note(contract),
        *_architecture_note(student),
    ]
    return Written(tuple(notes), relation="adapter" if is_lora else "finetune")


def _file_name(student: Student) -> str:
    lora = f"fewstep-{student.contract.steps}step-lora.safetensors"
    return lora if is_adapted(student.network) else checkpoint_name(student)


def _scaled_state(network: nn.Module) -> dict[str, Tensor]:
    """The adapter with its alpha / rank inside lora_B: a file without alphas is taken at scale 1."""
    state = adapter_state(network)
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            (scale,) = layer.scaling.values()
            for key in (f"{name}.lora_B.weight", f"{name}.lora_B.bias"):
                if key in state:
                    state[key] = state[key] * scale
    return state


def _node_note(contract: SamplingContract) -> list[str]:
    nodes = simple_nodes(contract.shift, contract.steps)
    apart = max(abs(a - b) for a, b in zip(nodes, contract.times, strict=True))
    if apart <= _NEAR:
        return []
    exact = ", ".join(f"{time:.4f}" for time in contract.times)
    return [
        f"ComfyUI's simple scheduler rounds its nodes by up to {apart:.1g} at {contract.steps} steps: a ManualSigmas "
        f"node takes the exact ones, {exact}."
    ]


def _architecture_note(student: Student) -> list[str]:
    config, own = the_denoiser(student.teacher).config, comfyui_facts(student.teacher)
    other = [f"{name} {value}" for name, value in own.expected.items() if _plain(config.get(name)) != value]
    if not other:
        return []
    return [
        f"ComfyUI reads a {own.model} file as one with {', '.join(other)}; this student's differ, so it will not run "
        "there."
    ]


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _reload(folder: Path, student: Student) -> Latents:
    if not is_adapted(student.network):
        return reload_checkpoint(folder, student)
    pipe = stock_pipeline(student)
    pipe.load_lora_weights(folder, weight_name=_file_name(student))
    return pipeline_latents(pipe, student)


def _network(path: Path, teacher: Teacher) -> nn.Module:
    file = only_file(path)
    state, _ = read_tensors(file)
    if not any(key.startswith(LORA_PREFIX) for key in state):
        return load_checkpoint(file, teacher)
    try:
        return with_adapter(teacher, type(teacher.pipeline).lora_state_dict(state), file)
    except KeyError as error:
        raise ValueError(
            f"{file} is no LoRA for {comfyui_facts(teacher).model} ({error} is missing): export it again"
        ) from error


def _snippet(student: Student) -> str:
    """In diffusers, which reads the same file."""
    if not is_adapted(student.network):
        return checkpoint_snippet(student)
    load = f'pipe.load_lora_weights(".", weight_name="{_file_name(student)}")\n'
    return (
        imports_code(student.contract.pipeline, stock_scheduler(student).name)
        + base_code(student)
        + load
        + clip_code(student)
    )


FORMATS = {
    "comfyui": Format(
        name="comfyui",
        write=_write,
        reload=_reload,
        network=_network,
        snippet=_snippet,
        lacks=_lacks,
    )
}
