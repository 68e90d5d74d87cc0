"""LTX-2: two streams in one tensor, what the stock pipelines make of the same, and their guidance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.families.ltx2_parts import Streams
from fewstep.teacher.given import Given, noise_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from tests.tiny_ltx2 import NEWER

SIZE = VideoSize(5, 32, 64)  # 6 tokens of video, 10 of sound
CASES = [
    ("text", ()),
    ("text", ("first",)),
    ("image", ("first",)),
    ("newer", ()),
    pytest.param(("newer", ("first",)), marks=pytest.mark.slow),
]
GUIDED = {
    "guidance_scale": 4.0, "stg_scale": 1.0, "modality_scale": 3.0, "guidance_rescale": 0.7,
    "audio_guidance_scale": 7.0, "audio_stg_scale": 1.0, "audio_modality_scale": 3.0, "audio_guidance_rescale": 0.7,
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def case(request: pytest.FixtureRequest, ltx2_folders: Callable[[str], Path]) -> tuple[Teacher, Given]:
    kind, names = request.param
    teacher = load_teacher(ltx2_folders(kind), device="cpu")
    teacher.take(names)
    teacher.use_size(SIZE)
    return teacher, noise_given(teacher.given_sizes(SIZE))


def stock(teacher: Teacher, given: Given, z: Tensor, steps: int, **requested: Any) -> Tensor:
    """By the pipeline's own call with the stock scheduler."""
    contract = SamplingContract.of(teacher, "tiny", steps, "full", SIZE, 1.0, "blurry", teacher.default_fps())
    arguments = teacher.call_arguments(contract, given) | teacher.noise_arguments(z, contract, given) | requested
    pipe = teacher.pipeline
    pipe.scheduler = teacher.stock_scheduler(contract).make(pipe)
    actual = pipe(prompt="a red circle", negative_prompt="blurry", output_type="latent", return_dict=False, **arguments)
    return teacher.from_outputs(actual, z.shape)


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert float((actual - expected).norm() / expected.norm()) < tolerance


def conditions_of(teacher: Teacher, given: Given) -> Conditions:
    return teacher.conditions(["a red circle"], "blurry", SIZE, given)


def test_clips_are_those_of_the_stock_pipeline(case: tuple[Teacher, Given]) -> None:
    teacher, given = case
    z = teacher.noise([3], teacher.latent_shape(*SIZE))
    assert z.shape == (1, 4, 8, 1, 2)
    actual = rollout(teacher, z, conditions_of(teacher, given), teacher.schedule.grid(3))
    close(actual, stock(teacher, given, z.clone(), 3))
    assert teacher.decode(actual).shape == (1, 3, *SIZE)


def test_guidance_is_the_pipelines(case: tuple[Teacher, Given]) -> None:
    teacher, given = case
    blocks = {"spatio_temporal_guidance_blocks": [1]}
    assert teacher.guided_evaluations == 3
    if teacher.pipeline.transformer.config.perturbed_attn:
        teacher._stg_block = 1  # type: ignore[attr-defined]  # its own is beyond a small network
        assert teacher.guided_evaluations == 4
    z = teacher.noise([3], teacher.latent_shape(*SIZE))
    conditions = conditions_of(teacher, given)
    actual = rollout(teacher, z, conditions, teacher.schedule.grid(3), 4.0)
    close(actual, stock(teacher, given, z.clone(), 3, **GUIDED, **blocks), 1e-4)  # four terms add up their rounding
    assert float((actual - rollout(teacher, z, conditions, teacher.schedule.grid(3), 2.0)).abs().max()) > 1e-3


def test_clips_that_are_not_guided_are_left_alone(ltx2_folders: Callable[[str], Path]) -> None:
    teacher = load_teacher(ltx2_folders("text"), device="cpu")
    conditions = teacher.conditions(["a ring", "a cross"], "blurry", SIZE)
    z, t = teacher.noise([0, 1], teacher.latent_shape(*SIZE)), torch.tensor([0.9, 0.4])
    actual = teacher.guide(z, t, conditions, torch.tensor([4.0, 1.0]))
    close(actual[1:], teacher.denoise(z, t, conditions)[1:])
    close(actual[:1], teacher.denoise(z[:1], t[:1], conditions[:1], 4.0))
    with pytest.raises(ValueError, match="unconditional branch"):
        teacher.denoise(z, t, Conditions(conditions.positive, padded=conditions.padded), 4.0)


def test_each_stream_sees_the_other(ltx2_folders: Callable[[str], Path]) -> None:
    """Otherwise one of them could as well be left out."""
    teacher = load_teacher(ltx2_folders("text"), device="cpu")
    conditions = teacher.conditions(["a ring"], None, SIZE)
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    before, changed = teacher.predict(z, 0.7, conditions), z.clone()
    changed[:, :, -1] += 1  # sound
    assert float((teacher.predict(changed, 0.7, conditions) - before)[:, :, :3].abs().max()) > 1e-4
    changed = z.clone()
    changed[:, :, 0] += 1  # video
    assert float((teacher.predict(changed, 0.7, conditions) - before)[:, :, 3:].abs().max()) > 1e-4


def test_a_first_frame_and_what_is_nothing_stay_where_they_are(ltx2_folders: Callable[[str], Path]) -> None:
    teacher = load_teacher(ltx2_folders("image"), device="cpu")
    size = VideoSize(5, 64, 64)  # 12 tokens of video, 10 of sound in frames of 4
    conditions = teacher.conditions(["a ring"], "blurry", size, noise_given(teacher.given_sizes(size)))
    z = teacher.noise([0], teacher.latent_shape(*size))
    assert z.shape[2:] == (6, 2, 2)
    kept, x0 = teacher.kept(conditions, z), teacher.denoise(z, 0.8, conditions, 4.0)
    assert kept is not None and kept.mask.flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 22, 23]
    assert torch.equal(x0[:, :, :1], conditions.shared["given_latents"]) and not x0[:, :, -1, 1].any()
    changed = torch.where(kept.mask, z + 1, z)
    close(teacher.denoise(changed, 0.8, conditions, 4.0), x0)
    assert teacher.features(z, 0.8, conditions)[0].shape[2:] == z.shape[2:]


@pytest.mark.parametrize(("grid", "sound", "frames"), [((3, 1, 2), 10, 8), ((3, 2, 2), 10, 6), ((1, 4, 4), 1, 2)])
def test_streams_come_apart_as_they_were_joined(grid: tuple[int, int, int], sound: int, frames: int) -> None:
    streams = Streams(grid, sound)
    video, audio = torch.randn(2, grid[0] * grid[1] * grid[2], 4), torch.randn(2, sound, 4)
    z = streams.join(video, audio)
    assert z.shape == (2, 4, frames, *grid[1:]) and int(streams.mask(z.device).sum()) == streams.nothing
    actual = streams.split(z)
    assert torch.equal(actual[0], video) and torch.equal(actual[1], audio)
    assert not z[streams.mask(z.device).expand_as(z)].any()


def test_videos_are_refused_for_their_missing_sound(ltx2_folders: Callable[[str], Path]) -> None:
    teacher = load_teacher(ltx2_folders("text"), device="cpu")
    with pytest.raises(ValueError, match="cannot be taught by videos: its clips have sound"):
        teacher.check_encodes()
    with pytest.raises(ValueError, match="make data of rollouts"):
        teacher.encode(torch.zeros(1, 3, *SIZE))


def test_the_newer_ones_are_told_so(ltx2_folders: Callable[[str], Path]) -> None:
    assert NEWER["perturbed_attn"]
    for kind, newer in (("text", False), ("newer", True)):
        teacher = load_teacher(ltx2_folders(kind), device="cpu")
        contract = SamplingContract.of(teacher, "tiny", 2, "full", SIZE, 1.0, "", 12.5)
        assert teacher.call_arguments(contract)["use_cross_timestep"] is newer
