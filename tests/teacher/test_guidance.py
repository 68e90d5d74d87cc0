"""Guidance is read, written and applied by noise level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline
from pydantic import BaseModel, ValidationError

from fewstep.teacher.base import Teacher
from fewstep.teacher.guidance import Guidance, GuidanceField
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.rollout import rollout
from fewstep.teacher.schedule import NoiseSchedule

FLOW = NoiseSchedule("flow", "flow")
LIMITED = Guidance(5.0, 0.3, 0.93)
TWO = Guidance(4.0, 0.875, 1.0, (Guidance(3.0, 0.0, 0.875),))  # Wan 2.2 A14B's


class Holder(BaseModel):
    guidance: GuidanceField = Guidance()


@pytest.mark.parametrize(
    ("text", "guidance"),
    [
        ("5", Guidance(5)),
        (" 1.5 ", Guidance(1.5)),
        ("-1", Guidance(-1)),
        ("1e1", Guidance(10)),
        ("5@0.3-0.93", LIMITED),
        ("5@.3-.93", LIMITED),
        ("2@0-0.5", Guidance(2, 0, 0.5)),
        (7, Guidance(7)),
        (0.123456789, Guidance(0.123456789)),
        (LIMITED, LIMITED),
        ("4@0.875-1,3@0-0.875", TWO),
        ("3@0-.875, 4@.875-1", TWO),
        (["3@0-0.875", "4@0.875-1"], TWO),
        ([5], Guidance(5)),
        (TWO, TWO),
    ],
)
def test_it_is_read_from_numbers_and_texts_and_reads_back(text: object, guidance: Guidance) -> None:
    assert Guidance.of(text) == guidance  # type: ignore[arg-type]
    assert Guidance.of(str(guidance)).low == guidance.low
    assert Guidance.of(guidance.plain()) == guidance
    held = Holder.model_validate({"guidance": text})
    assert held.guidance == guidance
    assert Holder.model_validate_json(held.model_dump_json()) == held


def test_without_levels_it_is_a_number_in_json() -> None:
    assert Holder().model_dump(mode="json") == {"guidance": 1.0}
    assert Holder(guidance=LIMITED).model_dump(mode="json") == {"guidance": "5@0.3-0.93"}
    assert Holder(guidance=TWO).model_dump(mode="json") == {"guidance": "4@0.875-1,3@0-0.875"}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("much", "guidance is 'much'; write a number, where 1 means none, or one with its noise levels"),
        ("5@0.3", "write a number"),
        ("5@0.3-0.9-1", "write a number"),
        ("nan", "guidance is nan; it must be a finite number"),
        (float("inf"), "guidance is inf; it must be a finite number"),
        ("5@0.9-0.3", "from noise level 0.9 to 0.3 is not an interval"),
        ("5@0.5-0.5", "is not an interval"),
        ("5@0.3-1.5", "levels go from 0 .data. to 1 .noise."),
        (True, "guidance is True; write a number"),
        ([], "guidance is an empty list"),
        ("5,3", "guidance 5@0-1 and 3@0-1 overlap: give each noise level one weight"),
        ("4@0.8-1,3@0-0.9", "overlap"),
        ("4@0.8-1,", "guidance is ''; write a number"),
    ],
)
def test_what_is_no_guidance_is_refused(text: object, facts: str) -> None:
    with pytest.raises(ValueError, match=facts):
        Guidance.of(text)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match=facts):
        Holder.model_validate({"guidance": text})


def test_it_applies_above_the_low_level_and_up_to_the_high_one() -> None:
    times = torch.tensor([1.0, 0.94, 0.93, 0.5, 0.3, 0.1], dtype=torch.float64)
    assert LIMITED.applies(FLOW, times).tolist() == [False, False, True, True, False, False]
    assert Guidance(5).applies(FLOW, times).all()
    assert not Guidance(1, 0.3, 0.93).applies(FLOW, times).any()
    assert LIMITED.applies(FLOW, 0.5).shape == ()


def test_of_two_intervals_that_meet_the_upper_one_has_the_edge() -> None:
    times = torch.tensor([1.0, 0.9, 0.875, 0.8749, 0.1], dtype=torch.float64)
    assert TWO.weights(FLOW, times).tolist() == [4, 4, 4, 3, 3]
    apart = Guidance.of("4@0.9-1,3@0-0.875")
    assert apart.weights(FLOW, times).tolist() == [4, 1, 3, 3, 3]
    assert apart.applies(FLOW, times).tolist() == [True, False, True, True, True]
    assert apart.evaluations(FLOW, torch.tensor([*times, 0.0])) == 5 + 4
    assert Guidance.of("1@0.875-1,3@0-0.875").weights(FLOW, times).tolist() == [1, 1, 1, 3, 3]
    assert TWO.guides and not Guidance.of("1@0.875-1,1@0-0.875").guides


def test_two_weights_are_the_stock_pipelines_for_experts(make_tiny_wan: Callable[..., None], tmp_path: Path) -> None:
    make_tiny_wan(tmp_path, experts=2, boundary_ratio=0.9375)  # which is a node of 4 steps
    teacher = load_teacher(tmp_path, device="cpu")
    z = teacher.noise([5], teacher.latent_shape(9, 16, 16))
    pipeline: Any = WanPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    size: dict[str, Any] = {"num_frames": 9, "height": 16, "width": 16, "num_inference_steps": 4}
    weights = {"guidance_scale": 4.0, "guidance_scale_2": 3.0}
    stock = pipeline("a red ring", "blurry", latents=z, output_type="latent", **size, **weights).frames
    conditions, grid = teacher.conditions(["a red ring"], "blurry"), teacher.schedule.grid(4)
    latents = rollout(teacher, z, conditions, grid, Guidance.of("4@0.9375-1,3@0-0.9375"))
    torch.testing.assert_close(latents, stock, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(
        rollout(teacher, z, conditions, grid, Guidance.of("4@0.94-1,3@0-0.94")), stock, atol=5e-4, rtol=0
    )


def test_levels_mean_the_same_on_another_schedule() -> None:
    vp = NoiseSchedule("vp", "v", alphas_cumprod=tuple((1 - torch.linspace(0.001, 1, 100).double()).tolist()))
    t = vp.time_of_level(torch.tensor([0.95, 0.5, 0.2], dtype=torch.float64))
    assert LIMITED.applies(vp, t).tolist() == [False, True, False]


def test_each_clip_of_a_batch_is_guided_by_its_own_time(tiny_teacher: Teacher) -> None:
    conditions = tiny_teacher.conditions(["a red ring", "a blue cross", "a ring"])
    z = tiny_teacher.noise([1, 2, 3], (16, 2, 2, 4))
    times = torch.tensor([0.97, 0.6, 0.2], dtype=torch.float64)
    x0 = tiny_teacher.denoise(z, times, conditions, LIMITED)
    guided = tiny_teacher.denoise(z, times, conditions, 5.0)
    plain = tiny_teacher.denoise(z, times, conditions)
    torch.testing.assert_close(x0[1], guided[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x0[[0, 2]], plain[[0, 2]], rtol=1e-4, atol=1e-4)
    assert (guided - plain).abs().amax(dim=(1, 2, 3, 4)).min() > 1e-2  # else nothing was compared


def test_gradients_flow_through_both_branches(tiny_teacher: Teacher) -> None:
    conditions = tiny_teacher.conditions(["a red ring", "a blue cross"])
    z = tiny_teacher.noise([1, 2], (16, 2, 2, 4)).requires_grad_()
    times = torch.tensor([0.97, 0.6], dtype=torch.float64)
    tiny_teacher.denoise(z, times, conditions, LIMITED).square().sum().backward()
    assert z.grad is not None and (z.grad.flatten(1).norm(dim=1) > 0).all()


def test_a_rollout_is_guided_at_some_of_its_steps(tiny_teacher: Teacher) -> None:
    conditions, grid = tiny_teacher.conditions(["a red ring"]), tiny_teacher.schedule.grid(4)
    z = tiny_teacher.noise([1], (16, 2, 2, 4))
    middle = Guidance(5.0, float(tiny_teacher.schedule.level(grid[3])), float(tiny_teacher.schedule.level(grid[1])))
    by_hand = rollout(tiny_teacher, z, conditions, grid[:2])
    by_hand = rollout(tiny_teacher, by_hand, conditions, grid[1:4], 5.0)
    by_hand = rollout(tiny_teacher, by_hand, conditions, grid[3:])
    torch.testing.assert_close(rollout(tiny_teacher, z, conditions, grid, middle), by_hand)
