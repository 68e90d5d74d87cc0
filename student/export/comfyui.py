"""What ComfyUI loads: original key names, a LoRA or a whole model, with a workflow that samples it as trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from torch import nn

from fewstep.student.export.abilities import comfyui_facts, comfyui_loader, lora_loader
from fewstep.student.export.base import ExportPrecision, Format, Options, SampleLatents, Written
from fewstep.student.export.comfyui_lora import PREFIX, adapter_tensors, extracted_tensors, is_extracted, patched
from fewstep.student.export.comfyui_workflow import architecture_note, named_files, node_note, workflow
from fewstep.student.export.header import only_file, read_tensors, write_tensors
from fewstep.student.export.lora import is_adapted, with_adapter
from fewstep.student.export.precision import cast_tensors
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
    dtype_code,
    imports_code,
    pipeline_latents,
    stock_pipeline,
    stock_scheduler,
)
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher

WORKFLOW = "workflow.json"
CHECKPOINT_PREFIX = "model.diffusion_model."  # what ComfyUI looks for in a whole model, and strips


def _lacks(teacher: Teacher) -> str:
    return comfyui_loader(teacher) or lora_loader(teacher)


def _write(student: Student, folder: Path, options: Options) -> Written:
    stock_scheduler(student)  # refuse before the work
    adapted, notes, precision = is_adapted(student.network), list[str](), options.precision or "float32"
    is_lora = adapted or options.rank is not None
    # a LoRA leaves as it is; a fully trained student whole, or as a LoRA of the rank that was asked for
    if adapted:
        tensors = adapter_tensors(student.teacher, student.network)
        write_tensors(folder / _lora_name(student), cast_tensors(tensors, precision), student.contract, "comfyui")
    elif options.rank is not None:
        notes.append(_write_extracted(student, folder, options.rank, precision))
    else:
        write_checkpoint(student, folder, "comfyui", precision, CHECKPOINT_PREFIX)
    file = _lora_name(student) if is_lora else checkpoint_name(student)
    (folder / WORKFLOW).write_text(json.dumps(workflow(student, file, is_lora), indent=1) + "\n", "utf-8")
    notes = [_steps_note(student, file, is_lora), *notes, *node_note(student.contract), *architecture_note(student)]
    relation: Literal["adapter", "finetune"] = "adapter" if is_lora else "finetune"
    return Written(tuple(notes), is_lora and not adapted, relation, steps=_steps(student, file, is_lora))


def _write_extracted(student: Student, folder: Path, rank: int, precision: ExportPrecision) -> str:
    tensors, held = extracted_tensors(student.teacher, student.network, rank)
    write_tensors(folder / _lora_name(student), cast_tensors(tensors, precision), student.contract, "comfyui")
    return (
        f"Extracted by SVD from a fully trained student: rank {rank} holds {held:.1%} of the change of the weights; "
        "biases, norms and convolutions are in it whole (diff, diff_b), and nothing of modulation tables, to which "
        "ComfyUI adds nothing. diffusers, by which it was compared, leaves norms and convolutions out as well."
    )


def _steps(student: Student, file: str, is_lora: bool) -> tuple[str, ...]:
    """What a user of ComfyUI does."""
    contract, own = student.contract, comfyui_facts(student.teacher)
    return (
        f"Put `{file}` into `models/{_place(is_lora)}`.",
        f"Have {named_files(student, is_lora)}; the words in brackets are what each is and its folder in `models`.",
        f"Drag `{WORKFLOW}` into the window and choose your own files where they are called otherwise.",
        f"Leave the rest: ModelSamplingSD3 shift {contract.shift:g} ({own.model}'s default there is {own.shift:g}), "
        f"sampler euler, scheduler simple, CFG {contract.guidance}, {contract.steps} steps"
        + (f", strength 1; further LoRAs go between {own.model}'s model and this one." if is_lora else "."),
    )


def _steps_note(student: Student, file: str, is_lora: bool) -> str:
    contract = student.contract
    return (
        f"For ComfyUI: put {file} into models/{_place(is_lora)} and load {WORKFLOW}, which names "
        f"{named_files(student, is_lora)}, shift {contract.shift:g}, sampler euler, scheduler simple, CFG "
        f"{contract.guidance} and {contract.steps} steps."
    )


def _place(is_lora: bool) -> str:
    return "loras" if is_lora else "diffusion_models"


def _lora_name(student: Student) -> str:
    return f"fewstep-{student.contract.steps}step-lora.safetensors"


def _reload(folder: Path, student: Student) -> SampleLatents:
    if not (folder / _lora_name(student)).is_file():
        return reload_checkpoint(folder, student)
    pipe = stock_pipeline(student)
    pipe.load_lora_weights(folder, weight_name=_lora_name(student))
    return pipeline_latents(pipe, student)


def _network(path: Path, teacher: Teacher) -> nn.Module:
    file = only_file(path)
    state, _ = read_tensors(file)
    # a file may be a whole model, a LoRA that was extracted, or an adapter
    if not any(key.startswith(PREFIX) for key in state):
        return load_checkpoint(file, teacher)
    try:
        if is_extracted(state):
            return patched(teacher, state, file)
        return with_adapter(teacher, type(teacher.pipeline).lora_state_dict(state), file)
    except KeyError as error:
        raise ValueError(
            f"{file} is not a LoRA for {comfyui_facts(teacher).model} ({error} is missing): export it again"
        ) from error


def _snippet(student: Student, written: Written) -> str:
    """In diffusers, which reads the same file."""
    if written.relation != "adapter":
        return checkpoint_snippet(student, written)
    load = f'pipe.load_lora_weights(".", weight_name="{_lora_name(student)}")\n'
    return (
        imports_code(student.contract.pipeline, stock_scheduler(student).name)
        + base_code(student, dtype_code(written))
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
        adapters=True,
    )
}
