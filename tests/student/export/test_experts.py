"""Exports of students of two experts: the stock pipeline gives their latents, and what no node uses is left out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline

from fewstep.student.denoiser import Roles, Train
from fewstep.student.export.base import EXACT, Exported, Options
from fewstep.student.export.stock import pipeline_latents
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.student.loading import Student
from fewstep.student.outline import outline_sampler
from fewstep.student.sampler import SamplingOptions, open_sampler
from fewstep.teacher.outline import outline_teacher

HIGH, LOW = "pytorch_lora_weights_high.safetensors", "pytorch_lora_weights_low.safetensors"
PROMPTS = ["a red ring", "a blue cross"]


def latents(path: Path, teacher: Path, steps: int = 4) -> torch.Tensor:
    """`teacher` is where an export that is no pipeline has its teacher."""
    sampler = open_sampler(path, teacher=None if (path / "model_index.json").is_file() else str(teacher), device="cpu")
    assert sampler.steps == steps
    return sampler.sample(sampler.noise([3, 4]), sampler.conditions(PROMPTS))


def own_latents(student: Student) -> torch.Tensor:
    z = student.teacher.noise([3, 4], student.teacher.latent_shape(*student.contract.size))
    return student.sample(z, student.teacher.conditions(PROMPTS))


@pytest.mark.parametrize("train", [pytest.param("full", marks=pytest.mark.slow), "lora"])
def test_a_folder_holds_both_and_comes_back(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], train: Train
) -> None:
    student, done = make_student("experts", train), make_export("experts", train, "diffusers")
    assert done.relative_error < EXACT
    index = json.loads((done.folder / "model_index.json").read_text())
    assert index["boundary_ratio"] == 0.875 and index["transformer_2"] == ["diffusers", "WanTransformer3DModel"]
    torch.testing.assert_close(latents(done.folder, student.teacher.folder), own_latents(student), atol=1e-4, rtol=1e-4)
    sampler, _ = outline_sampler(done.folder, SamplingOptions())
    assert sampler.evaluations == 4
    pipe: Any = DiffusionPipeline.from_pretrained(done.folder)  # by itself, without any of our code
    z = student.teacher.noise([3, 4], student.teacher.latent_shape(*student.contract.size))
    torch.testing.assert_close(pipeline_latents(pipe, student)(z, PROMPTS), own_latents(student), atol=1e-4, rtol=1e-4)
    assert "- experts: high (transformer: 1 2), low (transformer_2: 3 4)" in (done.folder / "README.md").read_text()


def test_a_lora_each_and_each_in_its_own_expert(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], tmp_path: Path
) -> None:
    student, done = make_student("experts", "lora"), make_export("experts", "lora", "lora")
    assert done.relative_error < EXACT
    assert sorted(path.name for path in done.folder.glob("*.safetensors")) == [HIGH, LOW]
    torch.testing.assert_close(latents(done.folder, student.teacher.folder), own_latents(student), atol=1e-4, rtol=1e-4)
    outline = outline_teacher(student.teacher.folder)
    outline_sampler(done.folder, SamplingOptions(), outline)
    snippet = (done.folder / "README.md").read_text()
    assert f"""pipe.load_lora_weights(".", weight_name='{HIGH}')""" in snippet
    assert f"""pipe.load_lora_weights(".", weight_name='{LOW}', load_into_transformer_2=True)""" in snippet
    pipe: Any = WanPipeline.from_pretrained(student.teacher.folder)
    pipe.load_lora_weights(done.folder, weight_name=LOW)  # the wrong way round: the comparison must be able to fail
    pipe.load_lora_weights(done.folder, weight_name=HIGH, load_into_transformer_2=True)
    z = student.teacher.noise([3, 4], student.teacher.latent_shape(*student.contract.size))
    assert not torch.allclose(pipeline_latents(pipe, student)(z, PROMPTS), own_latents(student), atol=1e-2)
    with pytest.raises(ValueError, match="is of one expert of a student that has 2: pass the folder with both files"):
        open_sampler(done.folder / LOW, teacher=student.teacher)
    halved = Path(shutil.copytree(done.folder, tmp_path / "halved"))
    (halved / LOW).unlink()
    with pytest.raises(ValueError, match="holds 1 files of weights, where its export wrote 2"):
        outline_sampler(halved, SamplingOptions(), outline)


def test_a_lora_each_of_a_fully_trained_student(make_student: Callable[..., Student], tmp_path: Path) -> None:
    done = write_export(make_student("experts", "full"), "lora", tmp_path / "out", Options(rank=24))
    assert len(done.notes) >= 2 and all("rank 24 holds" in note for note in done.notes[:2])
    assert sorted(path.name for path in done.folder.glob("*.safetensors")) == [HIGH, LOW]


@pytest.mark.parametrize("to", ["diffusers", "lora"])
def test_an_expert_that_no_node_uses_is_left_out(make_student: Callable[..., Student], tmp_path: Path, to: str) -> None:
    """One step is the high expert's alone."""
    student = make_student("experts", "lora", 1)
    done = write_export(student, to, tmp_path / "out")
    if to == "diffusers":
        index = json.loads((done.folder / "model_index.json").read_text())
        assert index["transformer_2"] == [None, None] and index["boundary_ratio"] is None
        assert not (done.folder / "transformer_2").exists()
    else:
        assert [path.name for path in done.folder.glob("*.safetensors")] == [HIGH]
        torch.testing.assert_close(
            latents(done.folder / HIGH, student.teacher.folder, 1), own_latents(student), atol=1e-4, rtol=1e-4
        )
    outline_sampler(done.folder, SamplingOptions(), outline_teacher(student.teacher.folder))
    torch.testing.assert_close(
        latents(done.folder, student.teacher.folder, 1), own_latents(student), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("to", ["diffusers", pytest.param("lora", marks=pytest.mark.slow)])
def test_an_expert_that_was_not_trained_is_the_teachers(tiny_experts_folder: Path, tmp_path: Path, to: str) -> None:
    from tests.student.few_steps import train
    from tests.student.test_experts import ask, saved

    teacher = open_sampler(tiny_experts_folder, device="cpu").teacher
    roles = Roles(teacher, "lora", rank=4, experts=("low",))
    train(roles, ask)
    student = load_student(saved(roles, tmp_path / "stage"), device="cpu")
    done = write_export(student, to, tmp_path / "out")
    assert [path.name for path in done.folder.glob("*.safetensors")] == ([LOW] if to == "lora" else [])
    torch.testing.assert_close(latents(done.folder, student.teacher.folder), own_latents(student), atol=1e-4, rtol=1e-4)
    if to == "diffusers":
        name = "transformer/diffusion_pytorch_model.safetensors"
        assert (done.folder / name).read_bytes() == (tiny_experts_folder / name).read_bytes()


@pytest.mark.parametrize("to", ["comfyui", "single-file"])
def test_a_format_of_one_network_refuses_two(make_student: Callable[..., Student], tmp_path: Path, to: str) -> None:
    with pytest.raises(
        ValueError,
        match=f"{to} is not possible .*it holds one network, and the teacher has two experts.*diffusers or lora",
    ):
        write_export(make_student("experts", "lora"), to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_with_another_boundary_is_refused(make_export: Callable[..., Exported], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(make_export("experts", "lora", "diffusers").folder, tmp_path / "moved"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"boundary_ratio": 0.95}))
    with pytest.raises(ValueError, match="the contract gives the student's nodes to high"):
        open_sampler(folder, device="cpu")
