"""Mochi against diffusers' own call, and what is special about it: reversed time, its nodes, masks of texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import MochiPipeline
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from tests.tiny_mochi import save_tiny_mochi

PROMPTS, NEGATIVE = ["a red circle", "a big blue square moves left over a dark background"], "blurry"
SIZE = VideoSize(13, 32, 48)
SAVE: dict[str, Callable[[Path], None]] = {
    "reversed": save_tiny_mochi,
    "forward": lambda folder: save_tiny_mochi(folder, invert_sigmas=False),
    "zeros": lambda folder: save_tiny_mochi(folder, force_zeros_for_empty_prompt=True),
}


@pytest.fixture(scope="module", params=SAVE)
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = tmp_path_factory.mktemp("mochi") / "pipeline"
    SAVE[request.param](folder)
    return load_teacher(folder, device="cpu")


@pytest.fixture(scope="module")
def published(tiny_mochi_folder: Path) -> Teacher:
    return load_teacher(tiny_mochi_folder, device="cpu")


def stock(teacher: Teacher, z: Tensor, steps: int, guidance: float, negative: str = NEGATIVE, **more: Any) -> Tensor:
    pipe: Any = teacher.pipeline
    pipe.set_progress_bar_config(disable=True)
    arguments = {"guidance_scale": guidance, "negative_prompt": [negative] * 2, "output_type": "latent", **more}
    actual: Tensor = pipe(
        PROMPTS, latents=z, num_inference_steps=steps, return_dict=False, **SIZE._asdict(), **arguments
    )[0]
    return actual


def ours(teacher: Teacher, z: Tensor, steps: int, guidance: float, negative: str = NEGATIVE) -> Tensor:
    return rollout(teacher, z, teacher.conditions(PROMPTS, negative), teacher.schedule.grid(steps), guidance)


def noise(teacher: Teacher) -> Tensor:
    return teacher.noise([5, 6], teacher.latent_shape(*SIZE))


FURTHER = [(2, 4.5), (4, 1.0), (10, 1.0), (10, 4.5)]  # steps and guidance


@pytest.mark.parametrize(
    ("steps", "guidance"), [(2, 1.0), (4, 4.5), *(pytest.param(*more, marks=pytest.mark.slow) for more in FURTHER)]
)
def test_same_noise_gives_the_stock_latents(teacher: Teacher, steps: int, guidance: float) -> None:
    z = noise(teacher)
    for negative in (NEGATIVE, ""):
        actual, expected = ours(teacher, z, steps, guidance, negative), stock(teacher, z, steps, guidance, negative)
        assert float((actual - expected).abs().max()) < 1e-5 * max(1.0, float(expected.abs().max()))


def test_same_noise_gives_the_stock_video(published: Teacher) -> None:
    z = noise(published)
    actual = published.decode(ours(published, z, 2, 1.0)).transpose(1, 2)
    expected = stock(published, z, 2, 1.0, output_type="pt")
    assert actual.shape == expected.shape == (2, 13, 3, 32, 48)
    torch.testing.assert_close((actual / 2 + 0.5).clamp(0, 1), expected, atol=1e-5, rtol=0)


def test_latents_are_normalised_per_channel(published: Teacher) -> None:
    vae, video = published.pipeline.vae, torch.rand(1, 3, 7, 16, 16) * 2 - 1
    raw = vae.encode(video).latent_dist.mode()
    config = vae.config
    mean, std = (torch.tensor(x).view(1, 12, 1, 1, 1) for x in (config.latents_mean, config.latents_std))
    torch.testing.assert_close(published.encode(video), (raw - mean) / std)
    torch.testing.assert_close(published.decode((raw - mean) / std), vae.decode(raw).sample)


def test_time_runs_the_other_way_where_the_scheduler_says_so(tmp_path: Path, published: Teacher) -> None:
    save_tiny_mochi(tmp_path, invert_sigmas=False)
    forward = load_teacher(tmp_path, device="cpu")
    assert published.schedule.reversed_time and not forward.schedule.reversed_time
    z, conditions = noise(published), published.conditions(PROMPTS, None)
    torch.testing.assert_close(published.predict(z, 0.75, conditions), -forward.predict(z, 0.25, conditions))


@pytest.mark.parametrize(("steps", "facts"), [(4, [0, 12.5, 25, 274]), (8, [0, 6.25, 12.5, 18.75, 25, 90.5, 274, 580])])
def test_times_are_rounded_as_the_pipeline_rounds_them(published: Teacher, steps: int, facts: list[float]) -> None:
    """In bfloat16, in which 275 is as near to 274 as to 276: the scheduler's float32 is a little less."""
    teacher: Any = published
    own = teacher._network_time(teacher.schedule.grid(steps)[:-1])
    scheduler = teacher.stock_scheduler(contract_of(teacher, steps)).make(teacher.pipeline)
    assert teacher.stock_timesteps(scheduler, contract_of(teacher, steps)).float().tolist() == own.tolist()
    assert own.to(torch.bfloat16).tolist() == facts


def contract_of(teacher: Teacher, steps: int) -> SamplingContract:
    return SamplingContract.of(teacher, str(teacher.folder), steps, "full", SIZE, 1.0, "", 30.0)


@pytest.mark.parametrize("shift", [1.0, 0.2, 3.0])
def test_stock_nodes_are_ours_for_even_numbers_of_steps(tiny_mochi_folder: Path, shift: float) -> None:
    """Also with a shift, which bends both alike: below 1 it spreads the nodes, of which half lie above 0.975."""
    teacher = load_teacher(tiny_mochi_folder, device="cpu", shift=shift)
    z = noise(teacher)
    for steps in (2, 4, 8):
        contract = contract_of(teacher, steps)
        scheduler = teacher.stock_scheduler(contract).make(teacher.pipeline)
        nodes = teacher.stock_timesteps(scheduler, contract)
        assert float((nodes - torch.tensor(contract.timesteps, dtype=torch.float64)).abs().max()) < 1e-3
    teacher.pipeline.scheduler = scheduler
    expected = stock(teacher, z, 8, 1.0)
    assert float((ours(teacher, z, 8, 1.0) - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_odd_numbers_of_steps_cannot_leave(published: Teacher) -> None:
    with pytest.raises(ValueError, match=r"MochiPipeline divides by zero for one step .* sample it with fewstep, or"):
        published.stock_scheduler(contract_of(published, 1))
    with pytest.raises(ValueError, match=r"has other nodes for an odd number of steps .* a student of 3: sample it"):
        published.stock_scheduler(contract_of(published, 3))
    with pytest.raises(ZeroDivisionError):  # if this is mended there, one step can leave
        stock(published, noise(published), 1, 1.0)
    with pytest.raises(ValueError, match="Only one of `timesteps` or `sigmas`"):
        stock(published, noise(published), 2, 1.0, timesteps=[1000, 500])


def test_padding_does_not_matter(published: Teacher) -> None:
    z, conditions = noise(published), published.conditions(PROMPTS, NEGATIVE)
    text, mask = conditions.positive["embeddings"], conditions.positive["mask"].bool()
    assert text.shape == (2, 256, 32) and int(mask[0].sum()) < int(mask[1].sum()) < 256
    before = published.predict(z, 0.7, conditions)
    changed = {**conditions.positive, "embeddings": text.masked_fill(~mask[..., None], 7.0)}
    actual = published.predict(z, 0.7, replace(conditions, positive=changed))
    torch.testing.assert_close(actual, before, rtol=0, atol=1e-5)
    for i in range(2):
        row = conditions.row(i)
        assert row.positive["embeddings"].shape[1] < 20
        torch.testing.assert_close(published.predict(z[i : i + 1], 0.7, row), before[i : i + 1], rtol=0, atol=1e-5)


def test_an_empty_prompt_is_emptied_alone(tmp_path: Path) -> None:
    """The pipeline empties a whole batch whose last prompt is empty."""
    save_tiny_mochi(tmp_path, force_zeros_for_empty_prompt=True)
    teacher = load_teacher(tmp_path, device="cpu")
    together, alone = (teacher.conditions(prompts, None).positive for prompts in (["a ring", ""], ["a ring"]))
    assert torch.equal(together["embeddings"][:1], alone["embeddings"])
    assert together["mask"].sum(dim=1).tolist() == [3, 0] and not together["embeddings"][1].any()


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((9, 32, 32), "9 frames cannot be made: use a multiple of 6 plus 1, such as 7"),
        ((7, 24, 32), "height 24 cannot be made: use a multiple of 16"),
        ((7, 32, 0), "width 0 cannot be made"),
    ],
)
def test_impossible_sizes(published: Teacher, size: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        published.latent_shape(*size)


def test_size_and_rate_where_the_folder_does_not_say(tmp_path: Path) -> None:
    save_tiny_mochi(tmp_path)
    (tmp_path / "fewstep.json").unlink()
    teacher = load_teacher(tmp_path, device="cpu")
    assert teacher.default_size() == (163, 480, 848) and teacher.default_fps() == 30
    assert teacher.latent_shape(163, 480, 848) == (12, 28, 60, 106)
    assert type(teacher.pipeline) is MochiPipeline
