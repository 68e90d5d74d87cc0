"""The libraries that are installed here: diffusers, peft, GGUF's reader, onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from fewstep.student.adapters import shared_copy
from fewstep.student.export.base import Options, find_format, formats_of
from fewstep.student.export.stock import pipeline_latents, stock_pipeline
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.student.sampler import open_sampler
from fewstep.teacher.families.wan_files import WAN_NAMES
from fewstep.teacher.load_teacher import load_teacher
from tests.clients.row import Row, compared, said
from tests.clients.students import make_student, save_teacher
from tests.tiny_pipelines import save_tiny_animatediff

EXTRA = {"torchao-int8": "torchao", "torchao-fp8": "torchao", "gguf": "gguf", "onnx": "onnxruntime"}
PROMPT = "a ring"


def rows(work: Path) -> Iterator[Row]:
    """One for each point that was run."""
    save_teacher(work / "teacher")
    full = make_student(work / "teacher", work / "full", "full")
    lora = make_student(work / "teacher", work / "lora", "lora")
    for student, kind in ((full, "full student"), (lora, "LoRA student")):
        yield from _of_diffusers(student, kind, work / kind)
    yield from _of_peft(lora, work / "LoRA student" / "lora")
    yield from _without_header(lora, work)
    yield from _in_and_out_layers(work)
    yield from _beside_another(lora, work)
    yield from _in_shards(full, work)
    yield from _without_paths(full, work)
    yield from _motion_module(work)
    if find_spec("gguf") is not None:
        yield from _of_gguf(full, work / "full student" / "gguf")
    if find_spec("onnxruntime") is not None:
        yield from _of_onnx(lora, work / "LoRA student" / "onnx")


def noise_of(student: Student) -> Tensor:
    """One clip's, for all comparisons."""
    return student.teacher.noise([3], student.teacher.latent_shape(*student.contract.size))


def own_latents(student: Student) -> Tensor:
    """The student's, of that noise."""
    return student.sample(noise_of(student), student.teacher.conditions([PROMPT]))


def _of_diffusers(student: Student, kind: str, work: Path) -> Iterator[Row]:
    for name in formats_of(student.teacher):
        if name in EXTRA and find_spec(EXTRA[name]) is None:
            continue
        format = find_format(name)
        done = write_export(student, name, work / name)
        if format.library == "diffusers":
            where = ("diffusers", version("diffusers"), name)
            most = 1.0 if kind == "full student" and name == "lora" else format.tolerance
            latents = format.reload(done.folder, student)(noise_of(student), [PROMPT])
            yield compared(where, f"{kind}: the stock pipeline", own_latents(student), latents, 2 * most)
        if name in ("diffusers", "single-file", "comfyui", "lora"):
            half = write_export(student, name, work / f"{name}-bfloat16", Options(precision="bfloat16"))
            latents = format.reload(half.folder, student)(noise_of(student), [PROMPT])
            case = f"{kind} in bfloat16: the stock pipeline"
            yield compared(("diffusers", version("diffusers"), name), case, own_latents(student), latents, 0.3)


def _of_peft(student: Student, folder: Path) -> Iterator[Row]:
    """The file under peft's own functions, with no settings but rank and alpha = rank."""
    state = {k.removeprefix("transformer."): x for k, x in load_file(next(folder.glob("*.safetensors"))).items()}
    targets = sorted({key.partition(".lora_")[0] for key in state})
    network: Any = get_peft_model(
        shared_copy(student.teacher.denoiser), LoraConfig(r=4, lora_alpha=4, target_modules=targets)
    )
    left: Any = set_peft_model_state_dict(network, {f"base_model.model.{key}": x for key, x in state.items()})
    where = ("peft", version("peft"), "lora")
    yield said(
        where,
        "LoRA student: no key left over",
        f"{len(state)} tensors, {len(left.unexpected_keys)} left over",
        not left.unexpected_keys,
    )
    latents = Student(student.teacher, network.base_model.model, student.contract).sample(
        noise_of(student), student.teacher.conditions([PROMPT])
    )
    yield compared(where, "LoRA student: latents", own_latents(student), latents)


def _without_header(student: Student, work: Path) -> Iterator[Row]:
    """As other tools save a LoRA again: tensors alone."""
    for name in ("lora", "comfyui"):
        (file,) = (work / "LoRA student" / name).glob("*.safetensors")
        bare = work / f"bare-{name}"
        bare.mkdir()
        save_file({k: x for k, x in load_file(file).items() if not k.endswith(".alpha")}, bare / file.name)
        pipe = stock_pipeline(student)
        pipe.load_lora_weights(bare, weight_name=file.name)
        latents = pipeline_latents(pipe, student)(noise_of(student), [PROMPT])
        where = ("diffusers", version("diffusers"), name)
        yield compared(where, "saved again without header and alphas: the same strength", own_latents(student), latents)


def _in_and_out_layers(work: Path) -> Iterator[Row]:
    """Of LoRA's own targets outside of blocks, which one format names and others carry."""
    student = make_student(work / "teacher", work / "targets", "lora", targets=("patch_embedding", "proj_out", "to_q"))
    done = write_export(student, "lora", work / "targets-lora")
    latents = find_format("lora").reload(done.folder, student)(noise_of(student), [PROMPT])
    where = ("diffusers", version("diffusers"), "lora")
    yield compared(where, "LoRA on patch_embedding and proj_out", own_latents(student), latents)
    try:
        write_export(student, "comfyui", work / "targets-comfyui")
    except ValueError as error:
        yield said(
            (*where[:2], "comfyui"),
            "LoRA on patch_embedding: refused by name",
            str(error),
            "patch_embedding;" in str(error),
        )


def _beside_another(student: Student, work: Path) -> Iterator[Row]:
    """A second LoRA, loaded before or after this one."""
    (file,) = (work / "LoRA student" / "lora").glob("*.safetensors")
    torch.manual_seed(9)
    style = work / "style"
    style.mkdir()
    save_file({key: torch.randn_like(x) * 0.1 for key, x in load_file(file).items()}, style / file.name)
    of_order = {}
    for order, weight in (((0, 1), 0.8), ((1, 0), 0.8), ((0, 1), 0.0)):
        pipe = stock_pipeline(student)
        both = ((file.parent, "fewstep"), (style, "style"))
        for folder, name in (both[i] for i in order):
            pipe.load_lora_weights(folder, adapter_name=name)
        pipe.set_adapters(["fewstep", "style"], [1.0, weight])
        of_order[order, weight] = pipeline_latents(pipe, student)(noise_of(student), [PROMPT])
    where = ("diffusers", version("diffusers"), "lora")
    first, last = of_order[(0, 1), 0.8], of_order[(1, 0), 0.8]
    yield compared(where, "beside another LoRA at 0.8: loaded before it, against after it", first, last)
    yield compared(where, "beside another LoRA at 0: the student", own_latents(student), of_order[(0, 1), 0.0])


def _in_shards(student: Student, work: Path) -> Iterator[Row]:
    done = write_export(student, "diffusers", work / "shards", Options(shard="1MB"))
    files = len(list((done.folder / "transformer").glob("*.safetensors")))
    latents = find_format("diffusers").reload(done.folder, student)(noise_of(student), [PROMPT])
    where = ("diffusers", version("diffusers"), "diffusers")
    yield compared(where, f"weights in {files} files", own_latents(student), latents)


def _without_paths(student: Student, work: Path) -> Iterator[Row]:
    """What `work` is called stands in no file, and the base model's name in the card."""
    done = write_export(student, "single-file", work / "named", Options(base_model="ORG/TEACHER"))
    files = [path for path in done.folder.rglob("*") if path.is_file()]
    telling = [path.name for path in files if str(work).encode() in path.read_bytes()]
    card = ModelCard.load(done.folder / "README.md").data.to_dict()
    named = (card.get("base_model"), card.get("base_model_relation")) == ("ORG/TEACHER", "finetune")
    where = ("huggingface_hub", version("huggingface_hub"), "single-file")
    result = f"{len(files)} files, {len(telling)} name a folder; base_model {card.get('base_model')}"
    yield said(where, "a teacher in a folder, --base-model", result, named and not telling)


def _motion_module(work: Path) -> Iterator[Row]:
    """The file that other programs' users share, read by diffusers' converter of such files."""
    save_tiny_animatediff(work / "animatediff")
    teacher = load_teacher(work / "animatediff", device="cpu")
    part = teacher.shared_part(teacher.denoiser)
    path = work / "motion" / "motion.safetensors"
    path.parent.mkdir()
    save_file({name: x.contiguous() for name, x in teacher.part_file(part).items()}, path)
    part.save_config(path.parent)
    back: Any = type(part).from_single_file(str(path), config=str(path.parent), local_files_only=True)
    own = part.state_dict()
    same = sum(torch.equal(x, own[name]) for name, x in back.state_dict().items())
    where = ("diffusers", version("diffusers"), "part")
    yield said(where, "motion module under its authors' names", f"{same} of {len(own)} tensors equal", same == len(own))


def _of_gguf(student: Student, folder: Path) -> Iterator[Row]:
    from gguf import GGUFReader, quants

    (file,) = folder.glob("*.gguf")
    reader: Any = GGUFReader(file)
    state = {WAN_NAMES.to_original(name): x for name, x in student.network.state_dict().items()}
    worst = 0.0
    for tensor in reader.tensors:
        values = torch.tensor(np.array(quants.dequantize(tensor.data, tensor.tensor_type)))
        worst = max(worst, float((values - state[tensor.name]).norm() / state[tensor.name].norm()))
    whole = {tensor.name for tensor in reader.tensors} == state.keys()
    where = ("GGUFReader", version("gguf"), "gguf")
    yield said(
        where,
        "original names, weights",
        f"{len(reader.tensors)} tensors, at most {worst:.2g} apart",
        whole and worst < 0.02,
    )


def _of_onnx(student: Student, folder: Path) -> Iterator[Row]:
    sampler = open_sampler(folder, teacher=student.teacher)
    latents = sampler.sample(noise_of(student), student.teacher.conditions([PROMPT]))
    where = ("onnxruntime", version("onnxruntime"), "onnx")
    yield compared(where, "one graph, its steps by fewstep", own_latents(student), latents, 1e-4)
