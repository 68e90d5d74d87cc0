"""Modular pipelines of every class that fewstep reads, against the classical folder and diffusers' own modular call."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from fewstep.commands.survey_tries import tried
from fewstep.student.contract import SamplingContract
from fewstep.teacher.families import MODULAR_FAMILIES
from fewstep.teacher.given import noise_given, to_pil
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.pipelines.modular import needed_parts
from fewstep.teacher.rollout import rollout
from tests.teacher.modular import open_modular, save_modular
from tests.tiny_hunyuan_video15 import save_tiny_hunyuan_video15
from tests.tiny_ltx import save_tiny_ltx
from tests.tiny_pipelines import save_tiny_given_wan, save_tiny_wan

GUIDANCE, STEPS, PROMPT, NEGATIVE = 4.0, 3, "a red ring", "blurry"


@dataclass(frozen=True)
class Case:
    """A modular class, the classical folder that it is made of, and what its clips are made from."""

    save: Callable[[Path], None]
    modular: str
    given: tuple[str, ...] = ()
    same_call: bool = True  # whether diffusers' own modular call is what fewstep samples


CASES = {
    "wan": Case(save_tiny_wan, "WanModularPipeline"),
    "a14b": Case(lambda f: save_tiny_wan(f, experts=2, boundary_ratio=0.875), "Wan22ModularPipeline"),
    "wan-image": Case(lambda f: save_tiny_given_wan(f, "i2v"), "WanImage2VideoModularPipeline", ("first",)),
    "a14b-image": Case(lambda f: save_tiny_given_wan(f, "a14b-i2v"), "Wan22Image2VideoModularPipeline", ("first",)),
    "ltx": Case(save_tiny_ltx, "LTXModularPipeline"),
    "hunyuan": Case(save_tiny_hunyuan_video15, "HunyuanVideo15ModularPipeline"),
    "hunyuan-image": Case(  # whose modular call gives the denoiser zeros for SigLIP's tokens (diffusers 0.42)
        lambda f: save_tiny_hunyuan_video15(f, pictures=True), "HunyuanVideo15ModularPipeline", ("first",), False
    ),
}


# Wan 2.2 from images has two experts, and is given an image; Hunyuan's class is there without one.
COVERED = {"a14b", "wan-image", "hunyuan-image"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in COVERED else name for name in CASES],
)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def classical(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("modular") / "classical"
    case.save(folder)
    return folder


def test_all_classes_are_here() -> None:
    assert {case.modular for case in CASES.values()} == set(MODULAR_FAMILIES)


def test_it_is_the_teacher_of_the_classical_folder(case: Case, classical: Path, tmp_path: Path) -> None:
    save_modular(classical, tmp_path / "T", case.modular)
    teachers = [load_teacher(folder, device="cpu") for folder in (tmp_path / "T", classical)]
    assert type(teachers[0].pipeline) is type(teachers[1].pipeline)
    clips = [_sampled(teacher, case.given) for teacher in teachers]
    assert torch.equal(*clips)
    assert outline_teacher(tmp_path / "T").teacher.sha256() == teachers[0].sha256()


def test_diffusers_own_modular_call_gives_its_latents(case: Case, classical: Path) -> None:
    teacher = load_teacher(classical, device="cpu")
    actual, modular = _sampled(teacher, case.given), open_modular(classical, case.modular)
    size = teacher.default_size()
    assert size is not None
    contract = SamplingContract.of(teacher, str(classical), STEPS, "full", size, 1.0, "", teacher.default_fps())
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=GUIDANCE)
    guiders = {name: guider for name in ("guider", "guider_2") if hasattr(modular, name)}
    modular.update_components(scheduler=teacher.stock_scheduler(contract).make(teacher.pipeline), **guiders)
    modular.set_progress_bar_config(disable=True)
    given = {"image": to_pil(noise_given(teacher.given_sizes(size), 1)["first"][0], "first")} if case.given else {}
    latents = teacher.to_pipeline(teacher.noise([0], actual.shape[1:]))
    rate = {"frame_rate": teacher.default_fps()} if teacher.fed_fps else {}
    words = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "output_type": "pt"}
    expected = modular(**words, **size._asdict(), **given, **rate, latents=latents, output="latents")
    error = float((actual - expected).abs().max()) / float(expected.abs().max())
    assert (error < 1e-4) == case.same_call


def _sampled(teacher: Any, given: tuple[str, ...]) -> torch.Tensor:
    """Guided latents from the noise of seed 0, of the teacher's own size."""
    teacher.take(given)
    size = teacher.default_size()
    seen = noise_given(teacher.given_sizes(size), 1)
    z = teacher.noise([0], teacher.latent_shape(*size))
    conditions = teacher.conditions([PROMPT], NEGATIVE, size, seen)
    return rollout(teacher, z, conditions, teacher.schedule.grid(STEPS), GUIDANCE)


@pytest.mark.slow
def test_a_student_of_one_leaves_as_a_classical_pipeline(tmp_path: Path) -> None:
    """With the guidance that modular blocks make themselves, which a classical index names."""
    save_tiny_hunyuan_video15(tmp_path / "classical")
    save_modular(tmp_path / "classical", tmp_path / "T", "HunyuanVideo15ModularPipeline")
    path = tmp_path / "T" / "modular_model_index.json"
    index = json.loads(path.read_text())
    del index["guider"]  # as of a pipeline that was not made from a classical folder
    path.write_text(json.dumps(index))
    shutil.rmtree(tmp_path / "T" / "guider")
    assert "guider" in needed_parts("HunyuanVideo15Pipeline")
    tries = tried(tmp_path / "T", tmp_path / "work")
    assert tries["sentence"] == "" and tries["run"] and tries["export"] and tries["exact"]
    assert (tmp_path / "work" / "export" / "guider").is_dir()


def test_a_pipeline_without_a_classical_half_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "modular_model_index.json").write_text(json.dumps({"_class_name": "MiniMaxH3ModularPipeline"}))
    with pytest.raises(ValueError, match="modular pipeline, MiniMaxH3ModularPipeline, which fewstep does not know"):
        outline_teacher(tmp_path)
