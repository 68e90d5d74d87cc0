"""What is said of memory before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

import psutil
import pytest
import torch
from torch import nn

from fewstep.student.denoiser import Train
from fewstep.student.export import diffusers_folder, memory
from fewstep.student.export.base import Exported, ExportPrecision, Options, find_format
from fewstep.student.export.comparison import Compared, compare
from fewstep.student.export.lora import is_adapted
from fewstep.student.export.memory import gib_of_export, memory_notice
from fewstep.student.export.rounded import rounded
from fewstep.student.export.stock import merged_network, shared_denoisers
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.teacher.experts import parts_of
from fewstep.teacher.outline import outline_teacher


def test_a_large_model_says_what_it_takes(tiny_wan_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = outline_teacher(tiny_wan_folder).teacher
    own = 4 * sum(p.numel() for p in teacher.denoiser.parameters()) / 2**30
    parts = [part for part in teacher.pipeline.components.values() if isinstance(part, nn.Module)]
    others = 4 * sum(p.numel() for part in parts for p in part.parameters()) / 2**30 - own
    assert gib_of_export(teacher) == pytest.approx(4.5 * own + 1.5 * others)
    assert gib_of_export(teacher, format=find_format("diffusers")) == pytest.approx(3.5 * own + others)
    assert gib_of_export(teacher, True, find_format("diffusers")) == pytest.approx(2.5 * own + others)
    assert gib_of_export(teacher, True, find_format("lora")) == pytest.approx(own + others)
    assert gib_of_export(teacher, True, find_format("torchao-int8")) == pytest.approx(3.5 * own + 1.5 * others)
    for name in ("gguf", "onnx"):
        assert gib_of_export(teacher, format=find_format(name)) == pytest.approx(4.5 * own + others)
    assert memory_notice(teacher, torch.device("cpu")) == ("", False)
    monkeypatch.setattr(memory, "gib_of_export", lambda teacher, adapted, format: 70.4)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 32 * 2**30})())
    said = "it takes about 70 GiB of memory without activations, and 32 GiB are free"
    assert memory_notice(teacher, torch.device("cpu")) == (said, True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 * 2**30, 80 * 2**30))
    said = "it takes about 70 GiB of memory without activations, and 80 GiB are free on cuda:0"
    assert memory_notice(teacher, torch.device("cuda:0")) == (said, False)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_trained_network_is_held_once_and_adapters_are_merged_into_a_copy(
    make_student: Callable[..., Student], precision: ExportPrecision
) -> None:
    full, adapted = make_student("wan", "full"), make_student("wan", "lora")
    held = rounded(full, precision, keeps_adapters=False)
    assert merged_network(held) is held.network
    assert (held.network is full.network) == (precision == "float32")
    kept = rounded(adapted, precision, keeps_adapters=True)
    assert merged_network(kept) is not kept.network and is_adapted(kept.network)


@pytest.mark.parametrize(("train", "precision"), [("full", "bfloat16"), ("lora", "float32")])
def test_what_was_rounded_or_merged_is_gone_when_the_file_is_loaded_back(
    make_student: Callable[..., Student], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Train,
    precision: ExportPrecision,
) -> None:  # fmt: skip
    held, gone = list[ReferenceType[nn.Module]](), list[bool]()

    def remembered(*arguments: Any) -> Student:
        student = rounded(*arguments)
        held.append(ref(student.network))
        return student

    def compared(*arguments: Any) -> Compared:
        gone.append(held[0]() is None)
        return compare(*arguments)

    monkeypatch.setattr("fewstep.student.export.rounded.rounded", remembered)
    monkeypatch.setattr("fewstep.student.export.comparison.compare", compared)
    write_export(make_student("wan", train), "diffusers", tmp_path / "out", Options(precision=precision))
    assert gone == [True]


@pytest.mark.parametrize("family", ["wan", "experts", "cogvideox"])
def test_a_lora_is_loaded_back_around_the_teachers_tensors(make_student: Callable[..., Student], family: str) -> None:
    teacher = make_student(family, "lora").teacher
    shared = shared_denoisers(teacher)
    assert {teacher.component_names()[name] for name in parts_of(teacher.denoiser)} == shared.keys()
    for name, part in parts_of(teacher.denoiser).items():
        made = shared[teacher.component_names()[name]]
        assert made is not part and not made.training
        pairs = zip(made.parameters(), part.parameters(), strict=True)
        assert all(one.data_ptr() == other.data_ptr() for one, other in pairs)


@pytest.mark.parametrize("family", ["wan", "experts"])
def test_a_pipeline_is_loaded_back_without_second_text_encoder_and_autoencoder(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch,
    family: str,
) -> None:  # fmt: skip
    exported, teacher = make_export(family, "full", "diffusers"), make_student(family, "full").teacher
    monkeypatch.setattr(diffusers_folder, "pipeline_latents", lambda pipe, student: pipe)
    pipe: Any = diffusers_folder.reload_pipeline(exported.folder, make_student(family, "full"))
    assert pipe.text_encoder is teacher.pipeline.text_encoder and pipe.vae is teacher.pipeline.vae
    assert pipe.tokenizer is not teacher.pipeline.tokenizer
    own = {id(p) for p in teacher.denoiser.parameters()}
    assert own.isdisjoint(id(p) for p in pipe.transformer.parameters())
