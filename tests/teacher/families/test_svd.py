"""The SVD adapter against diffusers' own StableVideoDiffusionPipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteSchedulerOutput
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.student.denoiser import Roles
from fewstep.student.export.base import EXACT
from fewstep.student.export.write_export import write_export
from fewstep.student.load_student import load_student
from fewstep.student.sampler import SamplingOptions, teacher_sampler
from fewstep.teacher.base import Teacher
from fewstep.teacher.families.picture_noise import generator_of
from fewstep.teacher.given import noise_given, to_pil
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from fewstep.teacher.source import VideoSize, call_defaults
from fewstep.teacher.tokens import text_losses
from tests.tiny_svd import save_tiny_svd

SIZE = VideoSize(4, 16, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("svd")
    save_tiny_svd(path)
    return path


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Teacher:
    return load_teacher(folder, device="cpu")


def ours(teacher: Teacher, steps: int, guidance: float) -> tuple[Tensor, Tensor, Tensor]:
    """The image, the noise, and the clip's latents."""
    given = noise_given(teacher.given_sizes(SIZE))
    z = teacher.noise([5], teacher.latent_shape(*SIZE))
    conditions = teacher.conditions([""], "", SIZE, given)
    return given["first"][0], z, rollout(teacher, z, conditions, teacher.schedule.grid(steps), guidance)


def stock(folder: Path, teacher: Teacher, picture: Tensor, z: Tensor, steps: int, guidance: float, kind: str) -> Tensor:
    """What the pipeline makes of our noise on the nodes of our grid."""
    pipeline: Any = StableVideoDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    grid, schedule = teacher.schedule.grid(steps), teacher.schedule
    return pipeline(
        to_pil(picture, "first"),
        **SIZE._asdict(),
        sigmas=(schedule.sigma(grid) / schedule.alpha(grid)).tolist(),
        max_guidance_scale=guidance,
        fps=8,
        generator=generator_of(picture),
        latents=z.transpose(1, 2),
        output_type=kind,
        return_dict=False,
    )


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), pytest.param(4, 1.0, marks=pytest.mark.slow), (4, 3.0)])
def test_same_noise_gives_the_stock_latents(folder: Path, teacher: Teacher, steps: int, guidance: float) -> None:
    picture, z, actual = ours(teacher, steps, guidance)
    expected = stock(folder, teacher, picture, z, steps, guidance, "latent").transpose(1, 2)
    # EulerDiscrete keeps noise at 700 times the latents' scale: one step down from there is single precision's 1.8e-4
    bound = 1e-5 if steps > 1 else 5e-4
    assert float((actual - expected).abs().max()) < bound * max(1.0, float(expected.abs().max()))


# tests/commands/test_text_free.py exports a student of several steps
@pytest.mark.parametrize("steps", [*(pytest.param(steps, marks=pytest.mark.slow) for steps in (4, 2)), 1])
def test_students_leave_exactly_but_for_the_rounding_of_one_step(folder: Path, tmp_path: Path, steps: int) -> None:
    teacher = load_teacher(folder, device="cpu")
    roles = Roles(teacher, "lora", rank=2, alpha=2)
    for parameter in roles.average.values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    roles.save(tmp_path)
    teacher.take(("first",))
    SamplingContract.of(teacher, str(folder), steps, "lora", SIZE, 3.0, "", 8.0).write(tmp_path)
    student = load_student(tmp_path, device="cpu")
    error = write_export(student, "diffusers", tmp_path / "export").relative_error
    assert error < (EXACT if steps > 1 else 1e-4)
    assert (student.teacher.stock_rounding(student.contract) > EXACT) == (steps == 1)


def test_one_step_in_double_precision_is_exact(folder: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the difference after one step is the rounding of diffusers' sampler, and nothing else."""

    def step(scheduler: Any, output: Tensor, t: Tensor, sample: Tensor) -> EulerDiscreteSchedulerOutput:
        sigma, z, v = scheduler.sigmas[0].double(), sample.double(), output.double()
        x0 = z / (sigma**2 + 1) - v * sigma / (sigma**2 + 1).sqrt()
        return EulerDiscreteSchedulerOutput(prev_sample=z - (z - x0) / sigma * sigma)

    monkeypatch.setattr(EulerDiscreteScheduler, "step", step)
    picture, z, actual = ours(teacher, 1, 1.0)
    expected = stock(folder, teacher, picture, z, 1, 1.0, "latent").transpose(1, 2)
    assert float((actual - expected).abs().max()) < 5e-6


def test_same_noise_gives_the_stock_video(folder: Path, teacher: Teacher) -> None:
    picture, z, latents = ours(teacher, 2, 3.0)
    actual = teacher.decode(latents).transpose(1, 2)
    expected = stock(folder, teacher, picture, z, 2, 3.0, "pt")
    torch.testing.assert_close((actual / 2 + 0.5).clamp(0, 1), expected, atol=1e-4, rtol=1e-4)


def test_guidance_grows_from_none_at_the_first_frame(teacher: Teacher) -> None:
    spread = teacher.spread_guidance(torch.full((1, 1, 1, 1, 1), 3.0), torch.zeros(1, 4, 5, 2, 2))
    assert spread.flatten().tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]


def test_nobody_who_asks_for_no_guidance_gets_more_than_the_pipelines_own(teacher: Teacher) -> None:
    usual = call_defaults(StableVideoDiffusionPipeline)["max_guidance_scale"]
    assert teacher_sampler(teacher, "svd", SamplingOptions(2)).guidance == Guidance(usual) == Guidance(3.0)


def test_the_unconditional_branch_sees_no_picture(teacher: Teacher) -> None:
    one, other = (
        teacher.conditions([""], "", SIZE, {"first": torch.full((1, 3, 1, 16, 32), value, dtype=torch.uint8)})
        for value in (30, 200)
    )
    z, every = teacher.noise([0], teacher.latent_shape(*SIZE)), torch.ones(1, dtype=torch.bool)
    (u, c), (v, d) = (teacher.predict(z.repeat(2, 1, 1, 1, 1), 0.7, x.branches(every)) for x in (one, other))
    assert torch.equal(u, v) and float((c - d).abs().max()) > 1e-3


def test_no_prompt_is_read_and_that_is_said(teacher: Teacher) -> None:
    assert teacher.count_tokens(["a ring", ""]) == [0, 0] and teacher.unknown_words(["a zebra"]) == [[]]
    assert text_losses(teacher, ["", ""]) == []
    (sentence,) = text_losses(teacher, ["a ring", ""])
    assert sentence.startswith("none of 1 prompts is read: StableVideoDiffusionPipeline makes clips without any text")


@pytest.mark.parametrize(
    ("size", "sentence"),
    [((0, 16, 16), "0 frames cannot be made: use 1 or more"), ((4, 20, 16), "height 20 cannot be made")],
)
def test_impossible_sizes(teacher: Teacher, size: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        teacher.latent_shape(*size)


def test_without_a_picture(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="makes clips from first, and first is missing"):
        teacher.conditions(["a ring"], "", SIZE, {})


def test_size_and_rate_where_the_folder_does_not_say(tmp_path: Path) -> None:
    save_tiny_svd(tmp_path)
    (tmp_path / "fewstep.json").unlink()
    teacher = load_teacher(tmp_path, device="cpu")
    assert teacher.default_size() == (4, 576, 1024) and teacher.default_fps() == 7
