"""SDXL's packaged recipes through `fewstep run` on a tiny SDXL, and their students as SDXL-Lightning's are shared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fewstep.distill.recipe import read_recipe
from fewstep.student.contract import read_contract
from fewstep.student.export.base import Options
from fewstep.student.export.stock import stock_scheduler
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.student.loading import Student
from tests.commands.typed import fewstep

SIZE = {"num_frames": 1, "height": 16, "width": 16}
PROMPT = "a red ring"


def run(name: str, teacher: Path, folder: Path) -> Path:
    """The recipe's own stages, a step each; in float32, for exports are compared."""
    (folder / "prompts.txt").write_text("a red ring\na blue dot\n")
    settings = [
        f"teacher={teacher}", f"out={folder / 'run'}", f"data.prompts={folder / 'prompts.txt'}", "data.steps=2",
        f"size={json.dumps(SIZE)}", "device=cpu", "precision=float32", "student.lora.rank=2", "logging.tracker=none",
    ]  # fmt: skip
    for i, stage in enumerate(read_recipe(name, settings).stages):
        settings += [f"stages.{i}.{setting}" for setting in ("steps=1", "batch=2", "accumulate=1", "warmup=0", "ema=0")]
        settings += [f"stages.{i}.lr=1e-2"]  # so that a step is seen
        settings += [f"stages.{i}.objective.warmup=1"] if stage.objective.kind == "adversarial" else []
        settings += [f"stages.{i}.convert.steps=1"] if stage.convert else []
    code, output = fewstep("run", name, *[part for setting in settings for part in ("--set", setting)])
    assert code == 0, output
    return folder / "run"


def own_latents(student: Student) -> tuple[Tensor, Tensor]:
    """Noise and what the student makes of it."""
    z = student.teacher.noise([3], student.teacher.latent_shape(*student.contract.size))
    return z, student.sample(z, student.teacher.conditions([PROMPT], size=student.contract.size))[:, :, 0]


def stock_latents(pipe: Any, z: Tensor, steps: int) -> Tensor:
    """What diffusers' own call makes of it."""
    pipe.set_progress_bar_config(disable=True)
    actual: Tensor = pipe(
        PROMPT, height=16, width=16, num_inference_steps=steps, guidance_scale=1.0, latents=z[:, :, 0],
        output_type="latent", return_dict=False,
    )[0]  # fmt: skip
    return actual


def error(actual: Tensor, own: Tensor) -> float:
    return float((actual - own).norm() / own.norm())


@pytest.fixture(scope="module")
def relay(tiny_sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("sdxl-lightning", tiny_sdxl_folder, tmp_path_factory.mktemp("lightning"))


@pytest.mark.slow
def test_the_published_relay_goes_down_to_one_step_that_predicts_x0(relay: Path) -> None:
    names = [stage.name for stage in read_recipe(relay / "recipe.yaml").stages]
    contracts = [read_contract(relay / "stages" / name) for name in names]
    assert [contract.steps for contract in contracts] == [32, *[8] * 3, *[4] * 3, *[2] * 3, *[1] * 3]
    assert [contract.prediction for contract in contracts] == ["eps"] * 10 + ["x0"] * 3
    assert all(contract.baked_guidance.weight == 6 for contract in contracts)
    curves = {path.stem for path in (relay / "curves").iterdir()}
    assert curves == {*names, "1-step-lora-conditional.conversion"}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 4])
def test_its_unets_are_loaded_as_sdxl_lightnings_are(
    relay: Path, tiny_sdxl_folder: Path, tmp_path: Path, steps: int
) -> None:
    student = load_student(relay, steps, device="cpu")
    z, own = own_latents(student)
    assert write_export(student, "diffusers", tmp_path / "folder", Options()).relative_error < 1e-4
    assert write_export(student, "single-file", tmp_path / "file", Options()).relative_error < 1e-4
    unet: Any = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(tiny_sdxl_folder / "unet"))
    unet.load_state_dict(load_file(tmp_path / "file" / f"fewstep-{steps}step.safetensors"))
    pipe: Any = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_folder, unet=unet)
    pipe.scheduler = stock_scheduler(student).make(pipe)
    assert isinstance(pipe.scheduler, DDIMScheduler) and error(stock_latents(pipe, z, steps), own) < 1e-4
    config = pipe.scheduler.config
    predicts = {"prediction_type": config.prediction_type, "timestep_spacing": "trailing"}
    pipe.scheduler = EulerDiscreteScheduler.from_config(config, **predicts)
    assert error(stock_latents(pipe, z, steps), own) > 1e-4  # it scales the noise by .9977


@pytest.mark.slow
def test_an_adapter_alone_leaves_as_it_is(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    folder = run("sdxl-lora-4step", tiny_sdxl_folder, tmp_path)
    student = load_student(folder, device="cpu")
    z, own = own_latents(student)
    assert student.contract.weights == "lora"
    exported = write_export(student, "lora", tmp_path / "lora", Options())
    assert exported.relative_error < 1e-4 and not exported.notes
    pipe: Any = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_folder)
    pipe.load_lora_weights(tmp_path / "lora")
    pipe.fuse_lora()
    pipe.scheduler = stock_scheduler(student).make(pipe)
    assert error(stock_latents(pipe, z, 4), own) < 1e-4
    card = (tmp_path / "lora" / "README.md").read_text()
    assert "EulerDiscrete scales the noise by 0.9977" in card
    assert 'picture.save("picture.png")' in card and "export_to_gif" not in card


def test_a_picture_is_sampled_as_one(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    size = ["--height", 16, "--width", 24]
    assert fewstep("sample", tiny_sdxl_folder, "--steps", 2, "--prompt", PROMPT, *size, "--out", path)[0] == 0
    with Image.open(path) as image:
        assert image.size == (24, 16)
