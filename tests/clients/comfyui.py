"""ComfyUI itself, from a checkout: does it recognise, patch, sample and validate what `fewstep export` writes?"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.student.export.abilities import original_names
from fewstep.student.export.base import PROBE_PROMPTS, Options, find_format
from fewstep.student.export.comfyui_workflow import base_file
from fewstep.student.export.header import read_tensors, write_tensors
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.teacher.conditions import EMBEDDINGS
from tests.clients.row import Row, compared, said
from tests.clients.students import make_student, save_teacher

LATENTS = {16: "Wan21", 48: "Wan22"}  # ComfyUI's formats of latents, by their channels


class ComfyUI:
    """The checkout's own modules, on the CPU."""

    def __init__(self, checkout: Path) -> None:
        sys.path.insert(0, str(checkout))
        arguments, sys.argv = sys.argv, [sys.argv[0], "--cpu"]
        try:
            import_module("comfy.options").enable_args_parsing()
            self.sd, self.lora, self.sample = (import_module(f"comfy.{n}") for n in ("sd", "lora", "sample"))
            self.nodes, self.paths = import_module("nodes"), import_module("folder_paths")
            self.execution = import_module("execution")
        finally:
            sys.argv = arguments
        asyncio.run(self.nodes.init_builtin_extra_nodes())
        self.version = str(import_module("comfyui_version").__version__)

    def load(self, file: Path) -> tuple[Any, list[str]]:
        """A model, and what was logged of keys that are missing or left over."""
        with _logged() as lines:
            model = self.sd.load_diffusion_model(str(file))
        return model, [line for line in lines if "missing" in line or "left over" in line or "unexpected" in line]

    def patch(self, model: Any, file: Path) -> tuple[Any, int, int, list[str]]:
        """The model with a LoRA; how many tensors the file has, how many weights it patches, and what was not used."""
        state, _ = read_tensors(file)
        with _logged() as lines:
            patched, _ = self.sd.load_lora_for_models(model, None, dict(state), 1.0, 0.0)
        unused = [line for line in lines if "not loaded" in line.lower()]
        return patched, len(state), len(patched.patches), unused

    def latents(self, model: Any, nodes: dict[str, Any], noise: Tensor, text: Tensor) -> Tensor:
        """What the workflow's sampler makes of our noise and text, normalised as we have it."""
        shift = self.nodes.NODE_CLASS_MAPPINGS["ModelSamplingSD3"]()
        (shifted,) = shift.patch(model, nodes["shift"]["inputs"]["shift"])
        empty = self.empty_latents(nodes["noise"])
        assert empty.shape[1:] == noise.shape[1:], (empty.shape, noise.shape)
        arguments = nodes["sample"]["inputs"]
        sampled = self.sample.sample(
            shifted, noise, arguments["steps"], arguments["cfg"], arguments["sampler_name"], arguments["scheduler"],
            [[text, {}]], [[torch.zeros_like(text), {}]], empty, denoise=arguments["denoise"], seed=0,
            disable_pbar=True,
        )  # fmt: skip
        normalised: Tensor = shifted.model.process_latent_in(sampled)
        return normalised

    def empty_latents(self, node: dict[str, Any]) -> Tensor:
        """Of the workflow's node."""
        kind = self.nodes.NODE_CLASS_MAPPINGS[node["class_type"]]
        inputs = {name: None if isinstance(value, list) else value for name, value in node["inputs"].items()}
        newer = hasattr(kind, "execute")
        outputs = kind.execute(**inputs).result if newer else getattr(kind(), kind.FUNCTION)(**inputs)
        latents: Tensor = outputs[0]["samples"]
        return latents

    def errors(self, nodes: dict[str, Any], models: Path) -> str:
        """What ComfyUI has against a workflow, whose files lie in `models`; nothing where it would run it."""
        for folder in ("diffusion_models", "loras", "text_encoders", "vae"):
            self.paths.add_model_folder_path(folder, str(models / folder))
        valid, error, _, details = asyncio.run(self.execution.validate_prompt("0", nodes, None))
        return "" if valid and not details else json.dumps([error, details])


def rows(checkout: Path, work: Path) -> Iterator[Row]:
    """One for each point that was run."""
    client = ComfyUI(checkout)
    for channels, name in ((16, "wan 2.1"), (48, "wan 2.2 5b")):
        teacher = work / str(channels)
        save_teacher(teacher, channels)
        full = make_student(teacher, work / f"{channels}-full", "full")
        lora = make_student(teacher, work / f"{channels}-lora", "lora")
        base = _base_file(full, work / f"{channels}-base")
        cases = [(full, "full student", Options()), (full, "full student in bfloat16", Options(precision="bfloat16"))]
        cases += [(lora, "LoRA student", Options()), (full, "full student as a LoRA of rank 128", Options(rank=128))]
        for student, case, options in cases:
            out = write_export(student, "comfyui", work / f"{channels}-{case}", options).folder
            yield from _of_export(client, student, out, base, f"{name}, {case}", channels)
        plain = write_export(lora, "lora", work / f"{channels}-plain").folder / "pytorch_lora_weights.safetensors"
        _, tensors, used, _ = client.patch(client.load(base)[0], plain)
        where = ("ComfyUI", client.version, "lora")
        yield said(where, f"{name}, what the card says: it patches nothing", f"{used} of {tensors} tensors", used == 0)


def _of_export(client: ComfyUI, student: Student, out: Path, base: Path, case: str, channels: int) -> Iterator[Row]:
    where = ("ComfyUI", client.version, "comfyui")
    nodes = json.loads((out / "workflow.json").read_text())
    (file,) = out.glob("*.safetensors")
    is_lora = "lora" in nodes
    model, missing = client.load(base if is_lora else file)
    kind = type(model.model.latent_format).__name__
    what = f"{type(model.model).__name__}, latents {kind}; {missing or 'no key missing'}"
    yield said(where, f"{case}: detection", what, kind == LATENTS[channels] and not missing)
    if is_lora:
        model, tensors, used, unused = client.patch(model, file)
        yield said(
            where, f"{case}: key mapping", f"{tensors} tensors patch {used} weights, {len(unused)} unused", not unused
        )
    z = student.teacher.noise([0], student.teacher.latent_shape(*student.contract.size))
    conditions = student.teacher.fixed_lengths(student.teacher.conditions(PROBE_PROMPTS[:1]))
    extracted = "rank" in case  # an approximation of the student, so it is compared with the file's own sum
    held = find_format("comfyui").network(file, student.teacher) if extracted else student.network
    own = replace(student, network=held).sample(z, student.teacher.conditions(PROBE_PROMPTS[:1]))
    latents = client.latents(model, nodes, z, conditions.positive[EMBEDDINGS].float())
    most = 0.3 if "bfloat16" in case else 1e-4
    against = "the base model with all that the file adds" if extracted else "the student"
    yield compared(where, f"{case}: sampling, against {against}", own, latents, most)
    models = out.parent / f"{out.name}-models"
    names = {"text_encoders": nodes["text"]["inputs"]["clip_name"], "vae": nodes["vae"]["inputs"]["vae_name"]}
    names |= {"diffusion_models": nodes["model"]["inputs"]["unet_name"]}
    names |= {"loras": nodes["lora"]["inputs"]["lora_name"]} if is_lora else {}
    for folder, name in names.items():
        (models / folder).mkdir(parents=True)
        (models / folder / name).touch()
    errors = client.errors(nodes, models)
    yield said(where, f"{case}: workflow", errors or "valid", not errors)


def _base_file(student: Student, folder: Path) -> Path:
    """The base model's own file, as a LoRA's workflow names it."""
    folder.mkdir()
    path = folder / base_file(student.contract)
    state = original_names(student.teacher).original(student.teacher.denoiser.state_dict())
    write_tensors(path, state, student.contract, "base")
    return path


@contextmanager
def _logged() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(handler)
