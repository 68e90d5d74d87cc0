"""The SANA-Video adapters against diffusers' own pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2Model

from fewstep.student.contract import SamplingContract
from fewstep.teacher.base import Teacher
from fewstep.teacher.given import noise_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.rollout import rollout
from tests.stock_clips import size_of, stock_error
from tests.tiny_sana_video import save_tiny_sana_video


@pytest.fixture(scope="module", params=["tiny_sana_video_folder", "tiny_sana_video_image_folder"])
def teacher(request: pytest.FixtureRequest) -> Teacher:
    folder: Path = request.getfixturevalue(request.param)
    return load_teacher(folder, device="cpu")


@pytest.mark.parametrize(("steps", "guidance"), [(1, 1.0), (4, 6.0)])
def test_same_noise_gives_the_stock_latents(teacher: Teacher, steps: int, guidance: float) -> None:
    assert stock_error(teacher, steps, guidance) < 1e-5


def test_a_denoiser_that_learned_its_variance(tmp_path: Path) -> None:
    save_tiny_sana_video(tmp_path, out_channels=32)
    assert stock_error(load_teacher(tmp_path, device="cpu"), 2, 6.0) < 1e-5


def test_a_first_frame_for_a_folder_of_texts(tiny_sana_video_folder: Path) -> None:
    teacher = load_teacher(tiny_sana_video_folder, device="cpu")
    teacher.take(("first",))
    assert type(teacher.pipeline).__name__ == "SanaImageToVideoPipeline" and stock_error(teacher, 2, 6.0) < 1e-5


def test_the_negative_prompt_is_read_without_the_instruction(tiny_sana_video_folder: Path) -> None:
    teacher: Any = load_teacher(tiny_sana_video_folder, device="cpu")
    one, other = teacher.embed(["a ring"]), teacher.embed_negative("a ring", {})
    assert one["mask"].sum() == other["mask"].sum() + 1  # of the instruction the first token alone stays
    assert not torch.equal(one["embeddings"][:, 1:4], other["embeddings"][:, :3])  # but all of it was read
    assert teacher.cleaned(" A Ring ") == "a ring"


def test_the_first_frame_stays_where_it_is(tiny_sana_video_image_folder: Path) -> None:
    teacher = load_teacher(tiny_sana_video_image_folder, device="cpu")
    size = size_of(teacher)
    conditions = teacher.conditions(["a ring"], "blurry", size, noise_given(teacher.given_sizes(size)))
    z = teacher.noise([0], teacher.latent_shape(*size))
    actual = rollout(teacher, z, conditions, teacher.schedule.grid(2))
    assert torch.equal(actual[:, :, :1], conditions.shared["given_latents"])
    changed = z.clone()
    changed[:, :, 0] += 1  # noise in place of the frame is not seen
    assert torch.equal(teacher.denoise(changed, 0.8, conditions), teacher.denoise(z, 0.8, conditions))


def test_the_size_is_the_trained_one_and_not_the_nearest_of_the_pipeline(tiny_sana_video_folder: Path) -> None:
    teacher = load_teacher(tiny_sana_video_folder, device="cpu")
    contract = SamplingContract.of(teacher, "tiny", 4, "full", size_of(teacher), 1.0, "", 16.0)
    arguments = teacher.call_arguments(contract)
    assert arguments["frames"] == 9 and arguments["use_resolution_binning"] is False and "num_frames" not in arguments


@pytest.mark.parametrize(
    ("size", "sentence"), [((8, 32, 32), "8 frames cannot be made"), ((9, 48, 32), "height 48 cannot be made: use a m")]
)
def test_impossible_sizes(teacher: Teacher, size: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        teacher.latent_shape(*size)


def test_where_the_folder_does_not_say(tmp_path: Path) -> None:
    for name, sample_size, size in (("480", 30, (81, 480, 832)), ("720", 22, (81, 704, 1280))):
        save_tiny_sana_video(tmp_path / name, sample_size=sample_size)
        (tmp_path / name / "fewstep.json").unlink()
        teacher = outline_teacher(tmp_path / name).teacher
        assert teacher.default_size() == size and teacher.default_fps() == 16


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    save_tiny_sana_video(tmp_path)
    config = tmp_path / "text_encoder" / "config.json"
    Gemma2Model(Gemma2Config(**json.loads(config.read_text()) | {"vocab_size": 8})).save_pretrained(config.parent)
    with pytest.raises(ValueError, match="tokens, and its text_encoder knows 8: they are of different models"):
        outline_teacher(tmp_path)


def test_what_nothing_samples_is_refused(tmp_path: Path) -> None:
    save_tiny_sana_video(tmp_path)
    config, index = tmp_path / "transformer" / "config.json", tmp_path / "model_index.json"
    whole = config.read_text()
    config.write_text(json.dumps(json.loads(whole) | {"guidance_embeds": True}))
    with pytest.raises(ValueError, match="has guidance_embeds, and SanaVideoPipeline passes it no guidance"):
        outline_teacher(tmp_path)
    config.write_text(whole)
    index.write_text(json.dumps(json.loads(index.read_text()) | {"vae": ["diffusers", "AutoencoderDC"]}))
    with pytest.raises(ValueError, match="has AutoencoderDC as its vae, not one of videos"):
        outline_teacher(tmp_path)
