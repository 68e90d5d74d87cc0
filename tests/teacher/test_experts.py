"""Two networks as one denoiser: who is in charge, and batches with times on both sides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import Experts, join_rows, parts_of, used_parts, with_parts
from fewstep.teacher.rollout import endpoint

PROMPTS = ["a red circle", "a big blue square", "a ring"]


def experts(boundary: float = 0.875) -> Experts:
    return Experts(nn.Linear(1, 1), nn.Linear(1, 1), boundary)


@pytest.mark.parametrize("boundary", [0.875, 0.9, 0.1 + 0.2])
def test_a_time_that_is_the_boundary_but_for_rounding_is_the_high_experts(boundary: float) -> None:
    pair = experts(boundary)
    for time in (boundary, boundary - 1e-15, boundary + 1e-15, torch.tensor(boundary, dtype=torch.float64)):
        assert pair.at(time) is pair.high
    assert pair.at(boundary - 1e-6) is pair.low
    assert pair.names_at(torch.tensor([1.0, boundary, 0.05], dtype=torch.float64)) == ["high", "high", "low"]


@pytest.mark.parametrize("boundary", [0.0, -0.1, 1.1, 875.0])
def test_a_boundary_outside_of_time_is_refused(boundary: float) -> None:
    with pytest.raises(ValueError, match="it must be a time above 0"):
        experts(boundary)


def test_parts_are_named_and_put_together_again() -> None:
    one, two = nn.Linear(1, 1), experts()
    assert parts_of(one) == {"": one} and with_parts(one, {"": two.high}) is two.high
    assert parts_of(two) == {"high": two.high, "low": two.low}
    other: Any = with_parts(two, {"high": one, "low": two.low})
    assert isinstance(other, Experts) and (other.high, other.low, other.boundary) == (one, two.low, 0.875)
    assert used_parts(two, torch.tensor([1.0, 0.9])) == {"high": two.high}
    assert used_parts(one, torch.tensor([1.0, 0.1])) == {"": one}
    assert [key for key, _ in two.named_parameters()] == ["high.weight", "high.bias", "low.weight", "low.bias"]


def test_rows_come_back_in_order_with_their_gradients() -> None:
    rows = torch.tensor([True, False, True])
    first, second = torch.ones(2, 3, requires_grad=True), torch.full((1, 3), 2.0, requires_grad=True)
    joined = join_rows([(rows, first), (~rows, second)])
    assert joined[:, 0].tolist() == [1, 2, 1]
    joined.square().sum().backward()
    assert first.grad is not None and (first.grad == 2).all() and second.grad is not None and (second.grad == 4).all()


def test_each_expert_is_asked_about_its_own_clips_only(tiny_experts: Teacher) -> None:
    denoiser: Any = tiny_experts.denoiser
    arguments = dict[str, list[float]]()
    handles = [
        part.register_forward_pre_hook(
            lambda _, args, name=name: arguments.setdefault(name, []).extend(args[1].tolist())
        )
        for name, part in parts_of(denoiser).items()
    ]
    try:
        z, times = tiny_experts.noise([0, 1, 2], (16, 2, 2, 4)), torch.tensor([0.2, 1.0, 0.875], dtype=torch.float64)
        conditions = tiny_experts.conditions(PROMPTS)
        together = tiny_experts.denoise(z, times, conditions, 5.0)
        assert arguments == {"high": [1000, 875, 1000, 875], "low": pytest.approx([200, 200])}
    finally:
        for handle in handles:
            handle.remove()
    for i in range(3):
        alone = tiny_experts.denoise(z[i : i + 1], times[i : i + 1], conditions[i : i + 1], 5.0)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


def test_a_target_may_cross_the_boundary(tiny_experts: Teacher) -> None:
    """The step 937.5 -> 833.3 is the high student's, but two of its eight teacher substeps are the low teacher's."""
    denoiser: Any = tiny_experts.denoiser
    grid, counts = tiny_experts.schedule.grid(4), {"high": 0, "low": 0}
    handles = [
        part.register_forward_pre_hook(lambda *_, name=name: counts.update({name: counts[name] + 1}))
        for name, part in parts_of(denoiser).items()
    ]
    try:
        z = tiny_experts.noise([0], (16, 2, 2, 4))
        endpoint(tiny_experts, z, grid[1], grid[2], 8, tiny_experts.conditions(PROMPTS[:1]))
    finally:
        for handle in handles:
            handle.remove()
    assert [float(t) for t in tiny_experts.schedule.timestep(grid[1:3])] == pytest.approx([937.5, 833.3333])
    assert counts == {"high": 6, "low": 2}


def test_the_pipelines_names_of_the_parts(tiny_experts: Teacher, tiny_teacher: Teacher) -> None:
    assert tiny_experts.component_names() == {"high": "transformer", "low": "transformer_2"}
    assert tiny_teacher.component_names() == {"": "transformer"}
