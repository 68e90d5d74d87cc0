"""Exports in other precisions hold the rounded student, and nothing but that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel
from safetensors.torch import load_file

from fewstep.student.export.base import Exported, Options, find_format
from fewstep.student.export.comparison import LARGE, compare, expected_latents, small_size
from fewstep.student.export.precision import published_precision
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.student.sampler import SamplingOptions, open_sampler, student_sampler
from fewstep.teacher.load_teacher import load_teacher

CASES = [
    ("wan", "full", "diffusers"),
    pytest.param("wan", "lora", "lora", marks=pytest.mark.slow),
    ("wan", "lora", "comfyui"),
    pytest.param("wan", "full", "single-file", marks=pytest.mark.slow),
    ("wan", "lora", "single-file"),
    ("cogvideox", "lora", "lora"),
]


@pytest.mark.parametrize(("family", "train", "to"), CASES)
def test_a_rounded_student_leaves(
    make_student: Callable[..., Student], tmp_path: Path, family: str, train: str, to: str
) -> None:
    student = make_student(family, train)
    done = write_export(student, to, tmp_path / "out", Options(precision="bfloat16"))
    assert 1e-6 < done.relative_error < 0.3 and done.precision == "bfloat16"
    tensors = [x for file in done.folder.rglob("*.safetensors") for x in load_file(file).values() if to != "diffusers"]
    tensors += [x for file in done.folder.glob("transformer/*.safetensors") for x in load_file(file).values()]
    stored = [x for x in tensors if x.ndim > 0]
    assert sum(x.numel() for x in stored if x.dtype == torch.bfloat16) > 0.8 * sum(x.numel() for x in stored)
    back = open_sampler(done.folder, teacher=None if to == "diffusers" else student.teacher, device="cpu")
    z, prompts = back.noise([7]), ["a ring"]
    own = student_sampler(student, "own", SamplingOptions()).sample(z, back.conditions(prompts))
    assert 1e-6 < float((back.sample(z, back.conditions(prompts)) - own).norm() / own.norm()) < 0.3
    assert "bfloat16" in (done.folder / "README.md").read_text()


def test_an_export_that_holds_something_else_is_not_kept(
    make_student: Callable[..., Student], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding is compared with the rounded student: it hides nothing."""
    student, format = make_student("wan", "full"), find_format("diffusers")

    def slightly_off(network: object, folder: Path, shard: str) -> None:
        with torch.no_grad():
            network.proj_out.bias.mul_(1.1)  # type: ignore[attr-defined]
        network.save_pretrained(folder)  # type: ignore[attr-defined]

    monkeypatch.setattr(f"{format.write.__module__}.save_network", slightly_off)
    with pytest.raises(ValueError, match=r"gives other latents than the student .*at most 1e-05 is allowed"):
        write_export(student, "diffusers", tmp_path / "out", Options(precision="bfloat16"))


def test_the_published_precision_is_the_usual_one(tiny_wan_folder: Path, tmp_path: Path) -> None:
    assert published_precision(load_teacher(tiny_wan_folder, device="cpu")) == "float32"
    pipe = DiffusionPipeline.from_pretrained(tiny_wan_folder)
    pipe.transformer.to(torch.float16)
    pipe.save_pretrained(tmp_path / "half")
    assert published_precision(load_teacher(tmp_path / "half", device="cpu")) == "float16"


def test_what_float16_cannot_hold_is_named(make_student: Callable[..., Student], tmp_path: Path) -> None:
    student = make_student("wan", "full")
    network = WanTransformer3DModel.from_config(student.network.config)
    network.load_state_dict(student.network.state_dict())
    network.blocks[1].ffn.net[2].weight.data[0, 0] = 1e5
    with pytest.raises(ValueError, match=r"float16 cannot hold blocks.1.ffn.net.2.weight, .* 1e\+05"):
        write_export(replace(student, network=network), "single-file", tmp_path / "out", Options(precision="float16"))
    with pytest.raises(ValueError, match=r"onnx cannot be written in bfloat16: use --dtype float32"):
        find_format("onnx").check_options(Options(precision="bfloat16"))


@pytest.mark.parametrize("size", ["5", "GB", "5GiB", "-1GB", "0GB", "five GB"])
def test_a_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match="is not a size of files: pass one such as 5GB or 500MB"):
        find_format("diffusers").check_options(Options(shard=size))
    with pytest.raises(ValueError, match="lora is a single file, so --max-shard-size has no effect"):
        find_format("lora").check_options(Options(shard="1.5GB"))


def test_shards_are_no_larger_than_asked(make_student: Callable[..., Student], tmp_path: Path) -> None:
    done = write_export(make_student("wan", "full"), "diffusers", tmp_path / "out", Options(shard="40KB"))
    files = list((done.folder / "transformer").glob("*.safetensors"))
    index = json.loads((done.folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert len(files) > 1 and set(index["weight_map"].values()) == {file.name for file in files}
    assert open_sampler(done.folder, device="cpu").steps == 4


def test_a_large_student_is_compared_on_small_clips(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, done = make_student("wan", "full"), make_export("wan", "full", "single-file")
    assert small_size(student) is None
    monkeypatch.setitem(LARGE, "cpu", 1.0)
    small = small_size(student)
    assert small == (5, 64, 64)
    format = find_format("single-file")
    expected = expected_latents(format, student, student)
    comparison = compare(format, format.write(student, done.folder, Options()), done.folder, student, expected)
    assert comparison.error < 1e-5 and re.search("compared on clips of 64x64x5", comparison.notes[-1])
