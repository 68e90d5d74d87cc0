"""Moments of few bits follow AdamW's, take a quarter of the memory, and are resumed bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from fewstep.distill.meta_step import plain_tensors
from fewstep.distill.optimizer_group import OptimizerGroup
from fewstep.distill.optimizers import OptimizerKind, check_optimizer

FEW_BITS: list[OptimizerKind] = ["adamw8bit", "adamw4bit"]
EVERY: list[OptimizerKind] = ["adamw", "adamw_fused", *FEW_BITS]


def needing(kind: OptimizerKind) -> None:
    if kind in FEW_BITS:
        pytest.importorskip("torchao", reason="the extra fewstep[quant] is not installed")


class Learner:
    """Two layers that learn a fixed map, of weights large enough to be kept in blocks; the first bias is not."""

    def __init__(self, kind: OptimizerKind) -> None:
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.goal = torch.randn(64, 64) / 8
        self.group = OptimizerGroup(self.layers.parameters(), 1e-3, (0.9, 0.99), 0.01, 1e9, kind)

    def step(self, number: int) -> float:
        x = torch.randn(32, 64, generator=torch.Generator().manual_seed(number))
        loss = (self.layers(x) - x @ self.goal).square().mean()
        loss.backward()
        self.group.step(1.0)
        return float(loss.detach())

    @property
    def moved(self) -> torch.Tensor:
        return nn.utils.parameters_to_vector(self.layers.parameters()).detach()


def moment_bytes(group: OptimizerGroup) -> int:
    moments = [s[name] for s in group.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    return sum(part.nbytes for moment in moments for part in plain_tensors(moment))


@pytest.mark.parametrize(
    ("kind", "apart"),
    [("adamw_fused", 1e-5), pytest.param("adamw8bit", 0.05, marks=pytest.mark.slow), ("adamw4bit", 0.25)],
)
def test_others_follow_adamw(kind: OptimizerKind, apart: float) -> None:
    """`apart`: the distance of where both end, of how far AdamW went in 100 steps."""
    needing(kind)
    exact, other = Learner("adamw"), Learner(kind)
    began = exact.moved
    losses = [(exact.step(i), other.step(i)) for i in range(100)]
    distance = float((other.moved - exact.moved).norm() / (exact.moved - began).norm())
    assert 0 < distance < apart
    assert losses[-1][0] < losses[0][0] / 2 and losses[-1][1] == pytest.approx(losses[-1][0], rel=apart)


@pytest.mark.parametrize(("kind", "share"), [("adamw8bit", 1 / 4), ("adamw4bit", 1 / 8)])
def test_moments_take_a_share_of_the_memory(kind: OptimizerKind, share: float) -> None:
    needing(kind)
    exact, other = Learner("adamw"), Learner(kind)
    exact.step(0), other.step(0)
    assert moment_bytes(other.group) == pytest.approx(share * moment_bytes(exact.group), rel=0.25)  # tables of codes


@pytest.mark.parametrize("kind", EVERY)
def test_a_checkpoint_goes_on_bit_for_bit(kind: OptimizerKind, tmp_path: Path) -> None:
    needing(kind)
    first, second = Learner(kind), Learner(kind)
    for number in range(3):
        first.step(number)
    torch.save(first.group.state(), tmp_path / "state.pt")
    second.layers.load_state_dict(first.layers.state_dict())
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    kept: list[Any] = [x for of_one in state["state"].values() for x in of_one.values()]
    tensors = [x for one in kept for x in (one.values() if isinstance(one, dict) else [one])]
    assert {type(x) for x in tensors} == {torch.Tensor}  # of torch alone: whoever reads it needs no torchao
    second.group.load(state)
    for number in range(3, 6):
        first.step(number), second.step(number)
    assert torch.equal(first.moved, second.moved)


def test_moments_of_other_bits_are_refused() -> None:
    needing("adamw8bit")
    exact, few = Learner("adamw"), Learner("adamw8bit")
    exact.step(0), few.step(0)
    with pytest.raises(ValueError, match="its optimizer remembers in another number of bits"):
        exact.group.load(few.group.state())


@pytest.mark.parametrize("kind", ["adamw8bit", "adamw4bit"])
def test_a_parameter_of_fewer_rows_than_processes_resumes_from_a_layout_where_it_is_in_blocks(
    kind: OptimizerKind,
) -> None:
    """Such as the modulation tables (1, 6, width) of Wan's blocks."""
    needing(kind)
    shape = (1, 8, 512)

    def group(parameter: nn.Parameter) -> OptimizerGroup:
        return OptimizerGroup([parameter], 1e-3, (0.9, 0.99), 0.0, 1.0, kind)

    def moments(of_group: OptimizerGroup) -> list[Any]:
        (state,) = of_group.optimizer.state.values()
        return [state[name] for name in ("exp_avg", "exp_avg_sq")]

    whole = nn.Parameter(torch.randn(shape))
    first = group(whole)
    whole.grad = torch.randn(shape)
    first.step(1.0)
    expected = [moment.dequantize() for moment in moments(first)]
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        zeros = torch.zeros(shape)
        shard = DTensor.from_local(zeros, mesh, [Shard(0)], run_check=False, shape=zeros.shape, stride=zeros.stride())
        # from a single file, and from what processes wrote together, where what is held otherwise comes whole
        single, parts = group(nn.Parameter(shard)), group(nn.Parameter(shard))
        single.load(saved := first.state())
        filled = parts.to_load({0: {"step": False, "exp_avg": True, "exp_avg_sq": True}})
        filled["state"][0]["step"].copy_(saved["state"][0]["step"])
        for name in ("exp_avg", "exp_avg_sq"):
            for part, tensor in filled["state"][0][name].items():
                tensor.copy_(saved["state"][0][name][part])
        parts.take_loaded(filled)
        for resumed in (single, parts):
            for moment, like in zip(moments(resumed), expected, strict=True):
                assert torch.equal(moment.to_local(), like)
        # and back, where it is in blocks again
        back = group(nn.Parameter(torch.zeros(shape)))
        plain = back.to_load({0: {"step": False, "exp_avg": False, "exp_avg_sq": False}})
        plain["state"][0]["step"].fill_(1)
        for name, tensor in zip(("exp_avg", "exp_avg_sq"), expected, strict=True):
            plain["state"][0][name].copy_(tensor)
        back.take_loaded(plain)
        for moment, like in zip(moments(back), expected, strict=True):
            assert float((moment.dequantize() - like).norm() / like.norm()) < 0.1  # rounded once more
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("codes", torch.zeros(128, 64)), ("codes", torch.zeros(3, dtype=torch.uint8)), ("codes", "x"),
        ("codes", torch.zeros(128, 64, dtype=torch.int64)), ("scale", -torch.ones(32)), ("scale", torch.ones(31)),
    ],
)  # fmt: skip
def test_blocks_that_do_not_fit_are_refused(part: str, wrong: object) -> None:
    needing("adamw8bit")
    learner = Learner("adamw8bit")
    learner.step(0)
    state = learner.group.state()
    state["state"][0]["exp_avg"] = dict(state["state"][0]["exp_avg"]) | {part: wrong}
    with pytest.raises(ValueError, match=r"what its optimizer remembers"):
        Learner("adamw8bit").group.load(state)


def test_a_missing_torchao_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    check_optimizer("adamw_fused")
    with pytest.raises(ValueError, match=r"optimizer adamw8bit needs torchao .*: pip install 'fewstep\[quant\]'"):
        check_optimizer("adamw8bit")
