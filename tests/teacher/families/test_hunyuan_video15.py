"""HunyuanVideo 1.5 against diffusers' own call, and what is special about it: masks, letters, a guider, sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.given import Given, noise_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from tests.tiny_hunyuan_video15 import save_tiny_hunyuan_video15

SIZE = VideoSize(9, 32, 48)
PROMPT, WRITTEN, NEGATIVE, STEPS = "a red circle moves left", 'a blue square that says "go on"', "blue", 4


@pytest.fixture(scope="module", params=["text", "pictures"])
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = tmp_path_factory.mktemp("hunyuan15") / "pipeline"
    save_tiny_hunyuan_video15(folder, pictures=request.param == "pictures")
    return load_teacher(folder, device="cpu")


@pytest.fixture
def given(teacher: Teacher) -> Given:
    return noise_given(teacher.given_sizes(SIZE), 1)


def ours(teacher: Teacher, z: Tensor, given: Given, prompt: str, guidance: float) -> Tensor:
    conditions = teacher.conditions([prompt], NEGATIVE, SIZE, given)
    return rollout(teacher, z, conditions, teacher.schedule.grid(STEPS), guidance)


def diffusers_own(teacher: Teacher, z: Tensor, given: Given, prompt: str, guidance: float) -> Tensor:
    contract = SamplingContract.of(teacher, str(teacher.folder), STEPS, "full", SIZE, 1.0, "", 8.0)
    pipe, before = teacher.pipeline, teacher.pipeline.guider
    pipe.set_progress_bar_config(disable=True)
    pipe.guider = before.new(guidance_scale=guidance)
    try:
        arguments = teacher.call_arguments(contract, given) | {"prompt": prompt, "negative_prompt": NEGATIVE}
        actual: Tensor = pipe(latents=z, output_type="latent", return_dict=False, **arguments)[0]
        return actual
    finally:
        pipe.guider = before


@pytest.mark.parametrize(
    ("prompt", "guidance"),
    [
        (PROMPT, 1.0),
        pytest.param(PROMPT, 5.0, marks=pytest.mark.slow),
        pytest.param(WRITTEN, 1.0, marks=pytest.mark.slow),
        (WRITTEN, 5.0),
    ],
)
def test_parity_with_diffusers(teacher: Teacher, given: Given, prompt: str, guidance: float) -> None:
    """With and without letters, which one branch has and the other has not."""
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    actual, expected = (ask(teacher, z, given, prompt, guidance) for ask in (ours, diffusers_own))
    tolerance = 1e-5 if guidance == 1 else 1e-4  # two forwards there, one of twice as many clips here
    assert float((actual - expected).abs().max()) < tolerance * float(expected.abs().max())


def test_letters_matter(teacher: Teacher, given: Given) -> None:
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    first, second = (ours(teacher, z, given, f'a blue square "{word}"', 1.0) for word in ("abc", "xyz"))
    assert float((first - second).abs().max()) > 1e-3


def test_a_batch_is_as_its_clips(teacher: Teacher) -> None:
    """Texts of different lengths, with and without letters."""
    given = noise_given(teacher.given_sizes(SIZE), 2)
    both = teacher.conditions([PROMPT, WRITTEN], None, SIZE, given)
    z = teacher.noise([0, 1], teacher.latent_shape(*SIZE))
    together = teacher.predict(z, 0.7, both)
    for i, prompt in enumerate([PROMPT, WRITTEN]):
        own = {name: video[i : i + 1] for name, video in given.items()}
        one = teacher.predict(z[i : i + 1], 0.7, teacher.conditions([prompt], None, SIZE, own))
        torch.testing.assert_close(together[i : i + 1], one, rtol=0, atol=1e-5)


def test_graphs_get_all_padding(teacher: Teacher, given: Given) -> None:
    conditions = teacher.conditions([WRITTEN], NEGATIVE, SIZE, given)
    whole, z = teacher.fixed_lengths(conditions), teacher.noise([0], teacher.latent_shape(*SIZE))
    assert whole.positive["embeddings"].shape[1] == 1000 and whole.positive["glyph_mask"].shape == (1, 256)
    torch.testing.assert_close(teacher.predict(z, 0.7, whole), teacher.predict(z, 0.7, conditions), rtol=0, atol=1e-5)


def test_times_are_cast_as_the_pipeline_casts_them(tmp_path: Path) -> None:
    save_tiny_hunyuan_video15(tmp_path / "pipeline")
    teacher = load_teacher(tmp_path / "pipeline", torch.bfloat16, "cpu")
    conditions = teacher.conditions([PROMPT], None, SIZE)
    z, seen = teacher.noise([0], teacher.latent_shape(*SIZE)), list[float]()
    handle: Any = teacher.denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(float(kwargs["timestep"])), with_kwargs=True
    )
    teacher.predict(z, 0.9375, conditions)
    handle.remove()
    assert seen == [936.0]


def test_sizes_that_cannot_be_made(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="8 frames cannot be made: use a multiple of 4 plus 1"):
        teacher.latent_shape(8, 32, 32)
    with pytest.raises(ValueError, match="width 44 cannot be made: use a multiple of 8"):
        teacher.latent_shape(9, 32, 44)
    if teacher.takes:
        with pytest.raises(ValueError, match="the pipeline makes 32 x 32 of such images"):
            teacher.latent_shape(9, 64, 64)


def test_students_of_pairs_of_times_are_no_teachers(tmp_path: Path) -> None:
    save_tiny_hunyuan_video15(tmp_path / "pipeline", use_meanflow=True)
    with pytest.raises(ValueError, match="use_meanflow: it is a student"):
        load_teacher(tmp_path / "pipeline", device="cpu")


def test_guiders_of_other_formulas_are_refused(tmp_path: Path) -> None:
    save_tiny_hunyuan_video15(tmp_path / "pipeline")
    file = tmp_path / "pipeline" / "guider" / "guider_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"guidance_rescale": 0.7}))
    with pytest.raises(ValueError, match=r"guides by ClassifierFreeGuidance with guidance_rescale 0\.7"):
        load_teacher(tmp_path / "pipeline", device="cpu")


def test_a_dropped_branch_is_not_needed(teacher: Teacher, given: Given) -> None:
    conditions = replace(teacher.conditions([PROMPT], None, SIZE, given), negative=None)
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    assert teacher.denoise(z, 0.7, conditions).shape == z.shape
