"""HunyuanVideo against diffusers' own call, and what is special about it: guidance as an input, masks, images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.student.contract import SamplingContract
from fewstep.student.sampler import SamplingOptions, teacher_sampler
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.given import Given, noise_given, to_pil
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from tests.tiny_hunyuan_video import save_tiny_hunyuan_video, save_tiny_hunyuan_video_image

PROMPT, NEGATIVE, STEPS = "a red circle moves left", "blue", 4
SIZE = VideoSize(9, 16, 32)
SAVE: dict[str, Callable[[Path], None]] = {
    "text": save_tiny_hunyuan_video,
    "text-without-guidance": lambda folder: save_tiny_hunyuan_video(folder, guidance_embeds=False),
    "latent_concat": lambda folder: save_tiny_hunyuan_video_image(folder, "latent_concat"),
    "token_replace": lambda folder: save_tiny_hunyuan_video_image(folder, "token_replace"),
}


@pytest.fixture(scope="module", params=SAVE)
def teacher(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Teacher:
    folder = tmp_path_factory.mktemp("hunyuan") / "pipeline"
    SAVE[request.param](folder)
    return load_teacher(folder, device="cpu")


@pytest.fixture
def given(teacher: Teacher) -> Given:
    return noise_given(teacher.given_sizes(SIZE), 1)


def ours(teacher: Teacher, z: Tensor, given: Given, guidance: float) -> Tensor:
    conditions = teacher.conditions([PROMPT], NEGATIVE if guidance != 1 else None, SIZE, given)
    return teacher.given_out(rollout(teacher, z, conditions, teacher.schedule.grid(STEPS), guidance))


def diffusers_own(teacher: Teacher, z: Tensor, given: Given, guidance: float) -> Tensor:
    contract = contract_of(teacher)
    arguments = teacher.call_arguments(contract, given) | teacher.noise_arguments(z, contract, given)
    if guidance != 1:
        arguments |= {"true_cfg_scale": guidance, "negative_prompt": NEGATIVE}
    pipe = teacher.pipeline
    pipe.set_progress_bar_config(disable=True)
    actual = pipe(prompt=PROMPT, output_type="latent", return_dict=False, **arguments)[0]
    return teacher.from_pipeline(actual, z.shape)


def contract_of(teacher: Teacher, steps: int = STEPS) -> SamplingContract:
    return SamplingContract.of(teacher, str(teacher.folder), steps, "full", SIZE, 1.0, "", 8.0)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_parity_with_diffusers(teacher: Teacher, given: Given, guidance: float) -> None:
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    actual, expected = ours(teacher, z, given, guidance), diffusers_own(teacher, z, given, guidance)
    tolerance = 1e-5 if guidance == 1 else 1e-4  # two forwards there, one of twice as many clips here
    assert float((actual - expected).abs().max()) < tolerance * float(expected.abs().max())


def test_what_is_told_matters_and_travels(teacher: Teacher, given: Given) -> None:
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    facts = teacher.embedded_guidance
    if facts is None:
        with pytest.raises(ValueError, match="takes no guidance as an input"):
            teacher.set_inputs(4.0)
        return
    before, contract = ours(teacher, z, given, 1.0), contract_of(teacher)
    assert contract.embedded_guidance == facts
    teacher.set_inputs(facts + 3)
    try:
        after = ours(teacher, z, given, 1.0)
        assert float((before - after).abs().max()) > 1e-3
        torch.testing.assert_close(after, diffusers_own(teacher, z, given, 1.0), rtol=0, atol=1e-4)
        assert contract.differences(contract_of(teacher)) == ["embedded_guidance"]
        contract.prepare(teacher)
        assert torch.equal(ours(teacher, z, given, 1.0), before)
    finally:
        teacher.set_inputs(facts)
    with pytest.raises(ValueError, match="embedded_guidance"):
        contract.check(embedded_guidance=facts + 1)
    with pytest.raises(ValueError, match="embedded_guidance None"):
        contract.model_copy(update={"embedded_guidance": None}).check_teacher(teacher)


def test_classifier_free_guidance_is_not_added_unasked(teacher: Teacher) -> None:
    arguments = SamplingOptions(**SIZE._asdict())
    weight = teacher_sampler(teacher, "tiny", arguments).guidance.weight
    assert weight == (5.0 if teacher.embedded_guidance is None else 1.0)
    assert teacher_sampler(teacher, "tiny", replace(arguments, guidance=3.0)).guidance.weight == 3.0


def test_padding_does_not_matter(teacher: Teacher, given: Given) -> None:
    """Of texts of different lengths in one batch, and of what the mask leaves out."""
    conditions = teacher.conditions([PROMPT], None, SIZE, given)
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    before = teacher.predict(z, 0.7, conditions)
    changed: dict[str, Any] = dict(conditions.positive)
    mask = changed["mask"].bool()
    assert 0 < int((~mask).sum()) < mask.numel()
    changed["embeddings"] = changed["embeddings"].masked_fill(~mask[..., None], 7.0)
    torch.testing.assert_close(
        teacher.predict(z, 0.7, replace(conditions, positive=changed)), before, rtol=0, atol=1e-5
    )


def test_sizes_that_cannot_be_made(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="8 frames cannot be made: use a multiple of 4 plus 1"):
        teacher.latent_shape(8, 16, 16)
    with pytest.raises(ValueError, match="width 24 cannot be made: use a multiple of 16"):
        teacher.latent_shape(9, 16, 24)


def test_a_kept_picture(teacher: Teacher, given: Given) -> None:
    if not given:
        return
    z = teacher.noise([0], teacher.latent_shape(*SIZE))
    conditions = teacher.conditions([PROMPT], None, SIZE, given)
    actual = rollout(teacher, z, conditions, teacher.schedule.grid(STEPS))
    kept = teacher.kept(conditions, z)
    assert (kept is None) == (z.shape[2] == 4)  # a frame more, next to the noise
    if kept is not None:
        torch.testing.assert_close(actual[:, :, 0], conditions.shared["picture"][:, :, 0])
    other = noise_given({"first": SIZE._replace(num_frames=1)}, 2)
    changed = {"first": other["first"][1:]}
    assert float((ours(teacher, z, changed, 1.0) - ours(teacher, z, given, 1.0)).abs().max()) > 1e-3


def test_long_prompts_of_pictures_are_cut_as_the_pipeline_cuts_them(tmp_path: Path) -> None:
    save_tiny_hunyuan_video_image(tmp_path / "pipeline", "token_replace")
    teacher: Any = load_teacher(tmp_path / "pipeline", device="cpu")
    given = noise_given(teacher.given_sizes(SIZE), 2)
    for words in (250, 251, 252, 253, 300):
        prompts = ["ring " * words, "ring " * (words - 1) + "square"]
        batch = teacher.conditions(prompts, None, SIZE, given).positive["embeddings"]
        own = teacher.pipeline.encode_prompt(
            to_pil(given["first"][0], "first"), prompts[:1], prompt_template=teacher.template, image_embed_interleave=4
        )[0]
        torch.testing.assert_close(batch[:1], own)


def test_without_a_kind_of_pictures_it_is_refused(tmp_path: Path) -> None:
    save_tiny_hunyuan_video_image(tmp_path / "pipeline", "token_replace")
    config = tmp_path / "pipeline" / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"token_replace"', "null"))
    with pytest.raises(ValueError, match="no image_condition_type"):
        load_teacher(tmp_path / "pipeline", device="cpu")
