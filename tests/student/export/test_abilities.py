"""What formats need is asked of diffusers and of the family, never of a list of names."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from diffusers import StableVideoDiffusionPipeline, WanTransformer3DModel
from torch import nn

from fewstep.student.export.abilities import any_teacher, comfyui_loader, lora_loader, single_file_loader
from fewstep.student.export.base import MODULES, formats_of
from fewstep.student.loading import Student
from fewstep.teacher.base import Teacher

USUAL = ["diffusers", "lora", "torchao-int8", "torchao-fp8", "onnx"]  # of families that say nothing of their files


class Renamed(WanTransformer3DModel):  # type: ignore[misc]
    """As sharding leaves a network: a class of its own."""


@pytest.fixture
def teacher(make_student: Callable[..., Student]) -> Teacher:
    return make_student("wan", "full").teacher


def test_every_family_leaves_in_the_formats_that_it_has(make_student: Callable[..., Student]) -> None:
    assert formats_of(make_student("wan", "full").teacher) == [name for name in MODULES if name != "part"]
    assert formats_of(make_student("cogvideox", "full").teacher) == USUAL
    with_part = [name for name in MODULES if name in (*USUAL, "part")]
    assert formats_of(make_student("animatediff", "full").teacher) == with_part


def test_a_pipeline_without_a_lora_loader_says_so(teacher: Teacher) -> None:
    pipeline = StableVideoDiffusionPipeline.__new__(StableVideoDiffusionPipeline)
    bare: Any = SimpleNamespace(pipeline=pipeline, denoiser=nn.Linear(1, 1))
    sentence = "diffusers' StableVideoDiffusionPipeline has no load_lora_weights, and its Linear no load_lora_adapter"
    assert lora_loader(bare) == sentence
    assert lora_loader(SimpleNamespace(pipeline=pipeline, denoiser=teacher.denoiser)) == ""  # type: ignore[arg-type]
    assert any_teacher(bare) == lora_loader(teacher) == ""


def test_a_class_of_its_own_loads_as_what_it_is_made_of(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher.network_at(1.0), "__class__", Renamed)
    assert single_file_loader(teacher) == ""


def test_what_nobody_wrote_down_is_missing(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(teacher), "original_names", None)
    for lacks in (single_file_loader, comfyui_loader):
        assert lacks(teacher) == "the original names of the tensors of WanTransformer3DModel are not known to fewstep"
    monkeypatch.setattr(type(teacher), "comfyui", None)
    assert comfyui_loader(teacher) == "what ComfyUI makes of WanPipeline is not known to fewstep"
    assert formats_of(teacher) == USUAL
