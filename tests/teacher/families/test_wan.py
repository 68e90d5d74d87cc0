"""The Wan adapter against diffusers' own WanPipeline, for each of its variants."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMapEulerDiscreteScheduler, WanPipeline
from torch import Tensor

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import EMBEDDINGS
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.rollout import rollout
from tests.tiny_pipelines import tiny_wan22_5b

PROMPTS = ["a red circle", "a big blue square moves left over a dark background"]


def stock_latents(folder: Path, steps: int, guidance: float) -> Tensor:
    pipeline: Any = WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPTS,
        negative_prompt="blurry",
        num_frames=9,
        height=32,
        width=16,
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
        output_type="latent",
        return_dict=False,
    )[0]


def latents(teacher: Teacher, steps: int, guidance: float) -> Tensor:
    z = teacher.noise([5, 6], teacher.latent_shape(9, 32, 16))
    return rollout(teacher, z, teacher.conditions(PROMPTS, "blurry"), teacher.schedule.grid(steps), guidance)


def assert_parity(folder: Path, steps: int, guidance: float) -> None:
    actual = latents(load_teacher(folder, device="cpu"), steps, guidance)
    expected = stock_latents(folder, steps, guidance)
    assert float((actual - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("length", [63, 64, 65, 128])
def test_texts_of_any_length_end_in_one_token_of_padding(tiny_wan_folder: Path, length: int) -> None:
    """It stands for all that are cut: a text that fills a block of 64 tokens needs one more."""
    teacher = load_teacher(tiny_wan_folder, device="cpu")
    words, prompt = 0, ""
    while teacher.count_tokens([prompt])[0] < length:
        words += 1
        prompt = " ".join(["red"] * words)
    (used,) = teacher.count_tokens([prompt])
    embeddings = teacher.conditions([prompt], None).positive[EMBEDDINGS]
    assert used == length and embeddings.shape[1] == length + 1
    assert not embeddings[:, -1].any() and embeddings[:, -2].any()


FURTHER = [(1, 5.0), (4, 1.0), (10, 1.0), (10, 5.0)]  # steps and guidance


@pytest.mark.parametrize(
    ("steps", "guidance"), [(1, 1.0), (4, 5.0), *(pytest.param(*more, marks=pytest.mark.slow) for more in FURTHER)]
)
def test_same_noise_gives_the_stock_latents(tiny_wan_folder: Path, steps: int, guidance: float) -> None:
    assert_parity(tiny_wan_folder, steps, guidance)


def test_comfyui_makes_the_noise_of_5b_with_its_autoencoder(make_tiny_wan: Callable[..., None], tmp_path: Path) -> None:
    make_tiny_wan(tmp_path / "14b")
    tiny_wan22_5b(tmp_path / "5b")
    for name, node in (("14b", "EmptyHunyuanLatentVideo"), ("5b", "Wan22ImageToVideoLatent")):
        comfyui = load_teacher(tmp_path / name, device="cpu").comfyui
        assert comfyui is not None and comfyui.noise[0] == node


def test_two_experts(make_tiny_wan: Callable[..., None], tmp_path: Path) -> None:
    make_tiny_wan(tmp_path, experts=2, boundary_ratio=0.875)
    assert_parity(tmp_path, 5, 5.0)
    teacher = load_teacher(tmp_path, device="cpu")
    high, low = teacher.pipeline.transformer, teacher.pipeline.transformer_2
    assert teacher.network_at(0.875) is high and teacher.network_at(0.87) is low
    conditions, z = teacher.conditions(PROMPTS), teacher.noise([0, 1], teacher.latent_shape(9, 16, 16))
    mixed = teacher.predict(z, torch.tensor([0.9, 0.5]), conditions)
    for i, (t, network) in enumerate([(0.9, high), (0.5, low)]):
        alone = teacher.predict(z[i : i + 1], t, conditions[i : i + 1], network)
        torch.testing.assert_close(mixed[i : i + 1], alone, atol=1e-4, rtol=1e-4)
    for depth, actual in enumerate(teacher.features(z, torch.tensor([0.9, 0.5]), conditions)):
        for i, (t, network) in enumerate([(0.9, high), (0.5, low)]):
            alone = teacher.features(z[i : i + 1], t, conditions[i : i + 1], network=network)[depth]
            torch.testing.assert_close(actual[i : i + 1], alone, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="two experts"):
        teacher.network_at(torch.tensor([0.9, 0.5]))


@pytest.mark.parametrize(
    ("experts", "boundary", "sentence"),
    [
        (1, 0.875, "has boundary_ratio 0.875, so that two experts share the times, but names no transformer_2"),
        (2, None, "names a transformer_2, but no boundary_ratio"),
        (2, 0.0, "has boundary_ratio 0.0: it is the time"),
        (2, 875.0, "has boundary_ratio 875.0: it is the time"),
    ],
)
def test_half_named_experts_are_refused(
    make_tiny_wan: Callable[..., None], tmp_path: Path, experts: int, boundary: float | None, sentence: str
) -> None:
    make_tiny_wan(tmp_path, experts=experts, boundary_ratio=boundary)
    with pytest.raises(ValueError, match=sentence):
        outline_teacher(tmp_path)
    with pytest.raises(ValueError, match=sentence):
        load_teacher(tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("shift", "boundary", "steps"),
    [(7.0, 0.875, 2), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((3.0, 0.9, 4), (5.0, 0.9375, 4)))],
)
def test_a_time_that_is_the_boundary_is_the_high_experts_as_in_the_stock_pipeline(
    make_tiny_wan: Callable[..., None], tmp_path: Path, shift: float, boundary: float, steps: int
) -> None:
    make_tiny_wan(tmp_path, experts=2, boundary_ratio=boundary)
    scheduler: Any = FlowMapEulerDiscreteScheduler(shift=shift)
    scheduler.save_pretrained(tmp_path / "scheduler")
    assert_parity(tmp_path, steps, 1.0)
    teacher: Any = load_teacher(tmp_path, device="cpu")
    assert teacher.denoiser.names_at(teacher.schedule.grid(steps)[:2]) == ["high", "high"]
    assert boundary == pytest.approx(float(teacher.schedule.grid(steps)[1]), abs=1e-12)


def test_a_timestep_per_token(make_tiny_wan: Callable[..., None], tmp_path: Path) -> None:
    make_tiny_wan(tmp_path, expand_timesteps=True)
    assert_parity(tmp_path, 4, 5.0)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((10, 16, 16), "10 frames cannot be made: use a multiple of 4 plus 1, such as 9"),
        ((0, 16, 16), "0 frames cannot be made"),
        ((9, 24, 16), "height 24 cannot be made: use a multiple of 16"),
        ((9, 16, 0), "width 0 cannot be made"),
    ],
)
def test_impossible_sizes(tiny_teacher: Teacher, size: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        tiny_teacher.latent_shape(*size)


def test_one_frame_is_a_video(tiny_teacher: Teacher) -> None:
    assert tiny_teacher.latent_shape(1, 16, 32) == (16, 1, 2, 4)


def test_frames_per_second(make_tiny_wan: Callable[..., None], tiny_teacher: Teacher, tmp_path: Path) -> None:
    assert tiny_teacher.default_fps() == 8  # as its fewstep.json says
    for name, config, fps in (("2.1", {}, 16), ("2.2-5B", {"expand_timesteps": True}, 24)):
        make_tiny_wan(tmp_path / name, **config)
        (tmp_path / name / "fewstep.json").unlink()
        assert load_teacher(tmp_path / name, device="cpu").default_fps() == fps


def test_no_prompts(tiny_teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        tiny_teacher.conditions([])


@pytest.mark.parametrize(
    ("experts", "index", "sentence"),
    [
        (1, {"boundary_ratio": 0.875}, "boundary_ratio 0.875, so that two experts .* but names no transformer_2"),
        (2, {"transformer": [None, None]}, "names no transformer, which is asked first"),
        (
            2,
            {"transformer_2": [None, None]},
            "names no transformer_2: download it again, or set boundary_ratio to null",
        ),
        (2, {"boundary_ratio": None}, "names a transformer_2, but no boundary_ratio, so nothing says"),
        (2, {"boundary_ratio": 875}, "boundary_ratio 875: it is the time above which transformer is used"),
        (2, {"boundary_ratio": "0.875"}, "boundary_ratio '0.875': it is"),
        (2, {"boundary_ratio": True}, "boundary_ratio True: it is"),
    ],
)
def test_experts_that_do_not_fit_their_boundary_are_refused(
    make_tiny_wan: Callable[..., None], tmp_path: Path, experts: int, index: dict[str, Any], sentence: str
) -> None:
    make_tiny_wan(tmp_path, experts=experts, boundary_ratio=0.5 if experts == 2 else None)
    path = tmp_path / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | index))
    for ask in (lambda: outline_teacher(tmp_path), lambda: load_teacher(tmp_path, device="cpu")):
        with pytest.raises(ValueError, match=sentence):
            ask()


def test_a_size_beyond_the_positions_is_refused(tiny_teacher: Teacher) -> None:
    """The tiny denoiser tells 32 positions apart along each axis, in patches of 16 pixels."""
    assert tiny_teacher.latent_shape(125, 512, 512) == (16, 32, 64, 64)
    for size, axis in (((129, 16, 16), "frames"), ((9, 528, 16), "height"), ((9, 16, 528), "width")):
        with pytest.raises(ValueError, match=f"33 patches of {axis} cannot be made: the denoiser knows 32"):
            tiny_teacher.latent_shape(*size)
