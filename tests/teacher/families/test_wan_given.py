"""Wan from images, controls and masks: what the stock pipelines make of the same, and what stays in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.teacher.base import Teacher
from fewstep.teacher.given import GIVEN_NAMES, Given, noise_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout

CASES = [  # kind of pipeline, what is given
    ("i2v", ("first",)),
    ("flf2v", ("first", "last")),
    ("5b-i2v", ("first",)),
    ("a14b-i2v", ("first",)),
    pytest.param(("a14b-i2v", ("first", "last")), marks=pytest.mark.slow),
    ("animate", ("reference", "pose", "face")),
    ("animate", ("reference", "pose", "face", "control", "mask")),
    ("vace", ()),
    pytest.param(("vace", ("reference",)), marks=pytest.mark.slow),
    ("vace", ("control", "mask")),
    ("vace", ("reference", "control", "mask")),
]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def case(request: pytest.FixtureRequest, given_wan_folders: Callable[[str], Path]) -> tuple[Teacher, Given]:
    kind, names = request.param
    teacher = load_teacher(given_wan_folders(kind), device="cpu")
    teacher.take(names)
    size = teacher.default_size()
    assert size is not None
    return teacher, noise_given(teacher.given_sizes(size))


def stock(teacher: Teacher, given: Given, z: Tensor, steps: int) -> Tensor:
    """By the pipeline's own call, guided."""
    size = teacher.default_size()
    assert size is not None
    contract = SamplingContract.of(teacher, "tiny", steps, "full", size, 1.0, "blurry", 8.0)
    arguments = teacher.call_arguments(contract, given) | {"guidance_scale": 5.0, "negative_prompt": "blurry"}
    actual = teacher.pipeline(prompt="a red circle", latents=z, output_type="latent", **arguments).frames
    return teacher.from_pipeline(actual, z.shape)


def close(actual: Tensor, expected: Tensor) -> None:
    assert float((actual - expected).norm() / expected.norm()) < 1e-5


def test_clips_are_those_of_the_stock_pipeline(case: tuple[Teacher, Given]) -> None:
    teacher, given = case
    size = teacher.default_size()
    assert size is not None
    z = teacher.noise([3], teacher.latent_shape(*size))
    conditions = teacher.conditions(["a red circle"], "blurry", size, given)
    actual = rollout(teacher, z, conditions, teacher.schedule.grid(3), 5.0)
    close(actual, stock(teacher, given, z.clone(), 3))
    assert teacher.decode(actual).shape == (1, 3, *size)


def test_what_is_given_matters(case: tuple[Teacher, Given]) -> None:
    """Otherwise parity would be empty."""
    teacher, given = case
    if not given:
        pytest.skip("nothing is given")
    size = teacher.default_size()
    assert size is not None
    z = teacher.noise([3], teacher.latent_shape(*size))
    for name in given:
        changed = {**given, name: 255 - given[name]}
        one, other = (teacher.conditions(["a ring"], None, size, each) for each in (given, changed))
        difference = teacher.denoise(z, 0.7, one) - teacher.denoise(z, 0.7, other)
        assert float(difference.abs().max()) > 1e-4, name


def test_each_clip_has_its_own_pictures(case: tuple[Teacher, Given]) -> None:
    teacher, _ = case
    size = teacher.default_size()
    assert size is not None
    given = noise_given(teacher.given_sizes(size), 2)
    both = teacher.conditions(["a ring", "a cross"], "blurry", size, given)
    z, t = teacher.noise([0, 1], teacher.latent_shape(*size)), torch.tensor([0.9, 0.4])
    together = teacher.denoise(z, t, both, 5.0)
    for i in range(2):
        own = {name: video[i : i + 1] for name, video in given.items()}
        alone = teacher.conditions([["a ring", "a cross"][i]], "blurry", size, own)
        close(together[i : i + 1], teacher.denoise(z[i : i + 1], float(t[i]), alone, 5.0))


def test_training_clips_become_latents_of_the_shape_that_is_sampled(case: tuple[Teacher, Given]) -> None:
    teacher, given = case
    size = teacher.default_size()
    assert size is not None
    latents = teacher.encode(torch.rand(1, 3, *size) * 2 - 1)
    placed = teacher.place_given(latents, teacher.conditions(["a ring"], None, size, given))
    assert placed.shape[1:] == teacher.latent_shape(*size)


def test_the_first_frame_of_5b_stays_where_it_is(given_wan_folders: Callable[[str], Path]) -> None:
    teacher = load_teacher(given_wan_folders("5b-i2v"), device="cpu")
    size = teacher.default_size()
    assert size is not None
    conditions = teacher.conditions(["a ring"], "blurry", size, noise_given(teacher.given_sizes(size)))
    z = teacher.noise([0], teacher.latent_shape(*size))
    kept = teacher.kept(conditions, z)
    assert kept is not None and kept.mask.sum() == 1 and bool(kept.mask[0, 0, 0])
    frame = conditions.shared["given_latents"]
    x0 = teacher.denoise(z, 0.8, conditions, 5.0)
    assert torch.equal(x0[:, :, :1], frame) and not torch.equal(x0[:, :, 1:2], frame)
    changed = z.clone()
    changed[:, :, 0] += 1  # noise in place of the frame is not seen
    close(teacher.denoise(changed, 0.8, conditions, 5.0), x0)
    assert torch.equal(rollout(teacher, z, conditions, teacher.schedule.grid(2))[:, :, :1], frame)


@pytest.mark.parametrize(
    ("kind", "names", "words"),
    [
        ("i2v", (), "makes clips from first, and first is missing"),
        ("i2v", ("first", "last"), "takes first, not last"),
        ("flf2v", ("first",), "last is missing"),
        ("5b-i2v", ("first", "control"), "not control"),
        ("vace", ("first",), "takes reference, control, mask, not first"),
        ("vace", ("reference", "mask"), "is given mask without control"),
        ("vace", ("picture",), f"use {', '.join(GIVEN_NAMES)}"),
    ],
)
def test_what_a_teacher_does_not_take(
    kind: str, names: tuple[str, ...], words: str, given_wan_folders: Callable[[str], Path]
) -> None:
    teacher = load_teacher(given_wan_folders(kind), device="cpu")
    with pytest.raises(ValueError, match=words):
        teacher.take(names)


def test_a_teacher_of_prompts_alone_says_so(tiny_teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="makes clips from prompts alone, not first"):
        tiny_teacher.take(("first",))


def test_prompts_must_bring_what_was_agreed(given_wan_folders: Callable[[str], Path]) -> None:
    teacher = load_teacher(given_wan_folders("i2v"), device="cpu")
    size = teacher.default_size()
    with pytest.raises(ValueError, match="first is missing"):
        teacher.conditions(["a ring"], size=size)
    vace = load_teacher(given_wan_folders("vace"), device="cpu")
    assert size is not None
    more: Mapping[str, Tensor] = noise_given({"mask": size})
    with pytest.raises(ValueError, match="comes with mask, and clips are made here from prompts alone"):
        vace.conditions(["a ring"], size=size, given=more)
