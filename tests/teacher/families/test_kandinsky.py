"""The Kandinsky 5 adapters against diffusers' own pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.student.contract import SamplingContract
from fewstep.student.export.base import find_format, formats_of
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.given import noise_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.rollout import rollout
from tests.stock_clips import size_of, stock_error
from tests.tiny_kandinsky import save_tiny_kandinsky

PROMPTS = ["a red circle", "a big blue square moves left over a dark background"]


@pytest.fixture(scope="module", params=["tiny_kandinsky_folder", "tiny_kandinsky_image_folder"])
def teacher(request: pytest.FixtureRequest) -> Teacher:
    folder: Path = request.getfixturevalue(request.param)
    return load_teacher(folder, device="cpu")


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (4, 5.0)])
def test_same_noise_gives_the_stock_latents(teacher: Teacher, steps: int, guidance: float) -> None:
    assert stock_error(teacher, steps, guidance) < 1e-5


def test_a_denoiser_without_channels_for_pictures(tmp_path: Path) -> None:
    save_tiny_kandinsky(tmp_path, visual_cond=False)
    assert stock_error(load_teacher(tmp_path, device="cpu"), 2, 5.0) < 1e-5


def test_positions_are_those_of_the_size(tiny_kandinsky_folder: Path) -> None:
    """The pipeline spreads positions by 2 where both sides are of 480 to 854 pixels, else by 3.16."""
    teacher: Any = load_teacher(tiny_kandinsky_folder, device="cpu")
    size = VideoSize(1, 480, 480)
    z = teacher.noise([0], teacher.latent_shape(*size))
    seen: list[Any] = []
    teacher.denoiser.register_forward_pre_hook(
        lambda _, __, named: seen.append(named["scale_factor"]), with_kwargs=True
    )
    for latents in (z, z[..., :-2]):  # 464 pixels wide
        teacher.predict(latents, 0.5, teacher.conditions(PROMPTS[:1], None, size))
    assert seen == [(1, 2, 2), (1, 3.16, 3.16)]


def test_a_clip_does_not_know_its_neighbours(teacher: Teacher) -> None:
    """Texts of several lengths would otherwise see padding, which nothing masks."""
    size = size_of(teacher)
    given = noise_given(teacher.given_sizes(size), 2)
    conditions = teacher.conditions(PROMPTS, "", size, given)
    assert conditions.positive["mask"].sum(dim=1).tolist() == [4, 11]
    z = teacher.noise([0, 1], teacher.latent_shape(*size))
    together = teacher.denoise(z, 0.6, conditions, 5.0)
    features = teacher.features(z, 0.6, conditions)
    for i, length in enumerate((4, 11)):
        alone = conditions.row(i)
        assert torch.equal(teacher.embed(PROMPTS[i : i + 1])["embeddings"], alone.positive["embeddings"][:, :length])
        assert torch.equal(teacher.denoise(z[i : i + 1], 0.6, alone, 5.0), together[i : i + 1])
        for one, both in zip(teacher.features(z[i : i + 1], 0.6, alone), features, strict=True):
            assert torch.equal(one, both[i : i + 1])


def test_the_time_is_rounded_as_the_pipeline_rounds_it(tiny_kandinsky_folder: Path) -> None:
    half: Any = load_teacher(tiny_kandinsky_folder, torch.bfloat16, "cpu")
    size = size_of(half)
    z, conditions = half.noise([0], half.latent_shape(*size)), half.conditions(PROMPTS[:1], None, size)
    assert torch.equal(half.predict(z, 0.9375, conditions), half.predict(z, 0.936, conditions))


def test_texts_are_as_long_in_bfloat16_which_cannot_count_so_far(tiny_kandinsky_folder: Path) -> None:
    half: Any = load_teacher(tiny_kandinsky_folder, torch.bfloat16, "cpu")
    size = size_of(half)
    z, conditions = half.noise([0], half.latent_shape(*size)), half.conditions(["ring " * 300], None, size)
    seen: list[Any] = []
    half.denoiser.register_forward_pre_hook(
        lambda _, __, named: seen.append(named["encoder_hidden_states"].shape[1]), with_kwargs=True
    )
    half.predict(z, 0.5, conditions)
    assert seen == [301]


def test_the_first_frame_stays_until_the_pipeline_settles_it(tiny_kandinsky_image_folder: Path) -> None:
    teacher: Any = load_teacher(tiny_kandinsky_image_folder, device="cpu")
    size = size_of(teacher)
    conditions = teacher.conditions(PROMPTS[:1], "blurry", size, noise_given(teacher.given_sizes(size)))
    z = teacher.noise([0], teacher.latent_shape(*size))
    actual = rollout(teacher, z, conditions, teacher.schedule.grid(2))
    assert torch.equal(actual[:, :, :1], conditions.shared["given_latents"])
    changed = z.clone()
    changed[:, :, 0] += 1  # noise in place of the frame is not seen
    assert torch.equal(teacher.denoise(changed, 0.8, conditions), teacher.denoise(z, 0.8, conditions))
    resolved = teacher.given_out(actual)
    assert torch.equal(resolved[:, :, 4:], actual[:, :, 4:]) and not torch.equal(resolved[:, :, :4], actual[:, :, :4])
    plain = teacher.pipeline.vae.decode(resolved / teacher.pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(teacher.decode(actual), plain)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [((8, 32, 32), "8 frames cannot be made"), ((17, 40, 32), "height 40 cannot be made: use a multiple of 16")],
)
def test_impossible_sizes(teacher: Teacher, size: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        teacher.latent_shape(*size)


def test_clips_from_pictures_are_longer_than_what_the_pipeline_settles(tiny_kandinsky_image_folder: Path) -> None:
    teacher = load_teacher(tiny_kandinsky_image_folder, device="cpu")
    with pytest.raises(ValueError, match="13 frames cannot be made from an image: use 17 or more"):
        teacher.latent_shape(13, 32, 32)


def test_where_the_folder_does_not_say(tmp_path: Path) -> None:
    save_tiny_kandinsky(tmp_path)
    (tmp_path / "fewstep.json").unlink()
    teacher = outline_teacher(tmp_path).teacher
    assert teacher.default_size() == (121, 512, 768) and teacher.default_fps() == 24


def test_sparse_attention_is_refused(tmp_path: Path) -> None:
    save_tiny_kandinsky(tmp_path)
    config = tmp_path / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_type": "nabla"}))
    with pytest.raises(ValueError, match="attention_type 'nabla', which chooses blocks of tokens by itself"):
        outline_teacher(tmp_path)


def test_a_processor_has_the_tokenizer_within(tiny_kandinsky_folder: Path) -> None:
    """As checkpoints have it."""
    teacher: Any = load_teacher(tiny_kandinsky_folder, device="cpu")

    class Processor:
        tokenizer = teacher.pipeline.tokenizer

    teacher.pipeline.tokenizer = Processor()
    assert teacher.count_tokens(["a red ring"]) == [4] and teacher.unknown_words(["a red zebra"]) == [["zebra"]]


def test_no_graph_is_written_that_would_know_one_length_of_texts(tiny_kandinsky_folder: Path) -> None:
    teacher = outline_teacher(tiny_kandinsky_folder).teacher
    assert {"diffusers", "lora"} <= set(formats_of(teacher)) and "onnx" not in formats_of(teacher)
    with pytest.raises(
        ValueError, match=r"onnx is not possible .* clips one by one, each with a text as long as it is"
    ):
        find_format("onnx").check_teacher(teacher)


def test_the_call_of_an_export(tiny_kandinsky_folder: Path) -> None:
    teacher = load_teacher(tiny_kandinsky_folder, device="cpu")
    contract = SamplingContract.of(teacher, "tiny", 4, "full", size_of(teacher), 1.0, "", 24.0)
    assert teacher.stock_scheduler(contract).name == "FlowMapEulerDiscreteScheduler"
    z = teacher.noise([0], teacher.latent_shape(*size_of(teacher)))
    assert teacher.to_pipeline(z).shape == (1, 3, 2, 2, 2 * 4 + 1)
    assert torch.equal(teacher.from_pipeline(teacher.to_pipeline(z)[..., :4], z.shape), z)
