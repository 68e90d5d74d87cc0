"""LTX-Video: what the stock pipelines make of the same; the shift by size, rates, images, and the decoder's time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.ltx import pipeline_ltx
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.families.ltx_parts import LTX_NAMES
from fewstep.teacher.given import Given, noise_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from tests.tiny_ltx import save_tiny_ltx

SIZE = VideoSize(17, 32, 64)
CASES = [  # kind of pipeline, what is given
    ("text", ()),
    ("text", ("first",)),
    ("image", ("first",)),
    ("condition", ()),
    ("condition", ("first",)),
    ("condition", ("last",)),
    ("condition", ("first", "last")),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def case(request: pytest.FixtureRequest, ltx_folders: Callable[[str], Path]) -> tuple[Teacher, Given]:
    kind, names = request.param
    teacher = load_teacher(ltx_folders(kind), device="cpu")
    teacher.take(names)
    teacher.use_size(SIZE)
    return teacher, noise_given(teacher.given_sizes(SIZE))


def stock(teacher: Teacher, given: Given, z: Tensor, steps: int, **requested: Any) -> Tensor:
    """By the pipeline's own call with the stock scheduler, guided."""
    contract = SamplingContract.of(teacher, "tiny", steps, "full", SIZE, 1.0, "blurry", teacher.default_fps())
    arguments = teacher.call_arguments(contract, given) | teacher.noise_arguments(z, contract, given)
    arguments |= {"guidance_scale": 5.0, "negative_prompt": "blurry", "max_sequence_length": teacher.text_limit}
    pipe = teacher.pipeline
    pipe.scheduler = teacher.stock_scheduler(contract).make(pipe)
    actual: Tensor = pipe(prompt="a red circle", **arguments | {"output_type": "latent"} | requested).frames
    return actual


def close(actual: Tensor, expected: Tensor) -> None:
    assert float((actual - expected).norm() / expected.norm()) < 1e-5


def test_clips_are_those_of_the_stock_pipeline(case: tuple[Teacher, Given]) -> None:
    teacher, given = case
    z = teacher.noise([3], teacher.latent_shape(*SIZE))
    conditions = teacher.conditions(["a red circle"], "blurry", SIZE, given)
    actual = rollout(teacher, z, conditions, teacher.schedule.grid(4), 5.0)
    close(actual, teacher.from_pipeline(stock(teacher, given, z.clone(), 4), z.shape))
    assert teacher.decode(actual).shape == (1, 3, *SIZE)
    close(teacher.encode(teacher.decode(actual)), teacher.encode(teacher.decode(actual.clone())))


def test_what_is_given_matters(case: tuple[Teacher, Given]) -> None:
    """Otherwise parity would be empty."""
    teacher, given = case
    z = teacher.noise([3], teacher.latent_shape(*SIZE))
    for name in given:
        changed = {**given, name: 255 - given[name]}
        one, other = (teacher.conditions(["a ring"], None, SIZE, each) for each in (given, changed))
        difference = (teacher.denoise(z, 0.7, one) - teacher.denoise(z, 0.7, other))[:, :, 1:]
        assert float(difference.abs().max()) > 1e-4, name


def test_each_clip_has_its_own_pictures(case: tuple[Teacher, Given]) -> None:
    teacher, _ = case
    given = noise_given(teacher.given_sizes(SIZE), 2)
    both = teacher.conditions(["a ring", "a big blue cross"], "blurry", SIZE, given)
    z, t = teacher.noise([0, 1], teacher.latent_shape(*SIZE)), torch.tensor([0.9, 0.4])
    together = teacher.denoise(z, t, both, 5.0)
    for i in range(2):
        own = {name: video[i : i + 1] for name, video in given.items()}
        alone = teacher.conditions([["a ring", "a big blue cross"][i]], "blurry", SIZE, own)
        close(together[i : i + 1], teacher.denoise(z[i : i + 1], float(t[i]), alone, 5.0))


def test_a_first_frame_stays_where_it_is_and_a_last_one_is_no_part_of_the_clip(
    ltx_folders: Callable[[str], Path],
) -> None:
    teacher = load_teacher(ltx_folders("condition"), device="cpu")
    teacher.take(("first", "last"))
    conditions = teacher.conditions(["a ring"], "blurry", SIZE, noise_given(teacher.given_sizes(SIZE)))
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    kept = teacher.kept(conditions, z)
    assert kept is not None and kept.mask.flatten().tolist() == [True, False, False]
    x0 = teacher.denoise(z, 0.8, conditions, 5.0)
    assert x0.shape == z.shape and torch.equal(x0[:, :, :1], conditions.shared["given_latents"])
    changed = z.clone()
    changed[:, :, 0] += 1  # noise in place of the frame is not seen
    close(teacher.denoise(changed, 0.8, conditions, 5.0), x0)


def test_the_shift_follows_the_size_as_in_the_pipeline(ltx_folders: Callable[[str], Path]) -> None:
    teacher, config = load_teacher(ltx_folders("text"), device="cpu"), {}
    for name in ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift"):
        config[name] = teacher.pipeline.scheduler.config[name]
    for size in (SIZE, VideoSize(161, 512, 704)):
        _, frames, height, width = teacher.latent_shape(*size)
        mu = pipeline_ltx.calculate_shift(frames * height * width, *config.values())
        teacher.use_size(size)
        assert teacher.schedule.shift == pytest.approx(math.exp(mu))
        assert teacher.schedule.num_train_timesteps == 1000


@pytest.mark.parametrize("timed", [False, True], ids=["plain", "timed"])
def test_decoding_is_the_pipelines(timed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_ltx(tmp_path, timed_decoder=timed)
    teacher = load_teacher(tmp_path, device="cpu")
    teacher.use_size(SIZE)
    shape = teacher.latent_shape(*SIZE)
    z, noise = teacher.noise([3], shape), teacher.noise([0], shape)
    monkeypatch.setattr(pipeline_ltx, "randn_tensor", lambda *args, **kwargs: noise)
    video = stock(teacher, {}, z, 2, output_type="pt").movedim(1, 2) * 2 - 1
    latents = teacher.from_pipeline(stock(teacher, {}, z, 2), z.shape)
    close(teacher.decode(latents).clamp(-1, 1), video)


def test_the_denoiser_is_told_the_rate(ltx_folders: Callable[[str], Path]) -> None:
    for kind in ("text", "condition"):
        teacher = load_teacher(ltx_folders(kind), device="cpu")
        z, conditions = teacher.noise([0], teacher.latent_shape(*SIZE)), teacher.conditions(["a ring"], None, SIZE)
        before = teacher.predict(z, 0.7, conditions)
        assert teacher.default_fps() == 8  # its fewstep.json's
        teacher.check_fps(8.0, "--fps")
        teacher.check_fps(None, "clips")
        with pytest.raises(ValueError, match="--fps has clips of 25 frames per second, and the denoiser"):
            teacher.check_fps(25.0, "--fps")
        teacher.default_fps = lambda: 25.0  # type: ignore[method-assign]
        assert float((teacher.predict(z, 0.7, conditions) - before).abs().max()) > 1e-4


@pytest.mark.parametrize(
    ("size", "words"),
    [((16, 32, 32), "a multiple of 8 plus 1"), ((17, 48, 32), "32"), ((17, 32, 40), "32")],
    ids=["frames", "high", "wide"],
)
def test_sizes_that_cannot_be_made(size: tuple[int, int, int], words: str, ltx_folders: Callable[[str], Path]) -> None:
    teacher = load_teacher(ltx_folders("text"), device="cpu")
    with pytest.raises(ValueError, match=words):
        teacher.latent_shape(*size)


def test_original_names_come_back(ltx_folders: Callable[[str], Path]) -> None:
    state = load_teacher(ltx_folders("text"), device="cpu").denoiser.state_dict()
    original = LTX_NAMES.original(state)
    assert "patchify_proj.weight" in original and "adaln_single.linear.weight" in original
    back = LTX_NAMES.to_diffusers(dict(original))
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_what_does_not_fit(ltx_folders: Callable[[str], Path]) -> None:
    with pytest.raises(ValueError, match="first is missing"):
        load_teacher(ltx_folders("image"), device="cpu").take(())
    with pytest.raises(ValueError, match="takes first, not last"):
        load_teacher(ltx_folders("text"), device="cpu").take(("first", "last"))
