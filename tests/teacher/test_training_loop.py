"""The loop resumes exactly, reports a loss that is not finite, and ends with the EMA."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from fewstep.teacher.interrupts import Stop
from fewstep.teacher.screen import SilentScreen
from fewstep.teacher.training_loop import Budget, train_network


class Killed(Exception):
    """A kill, as far as the loop can tell."""


class Net(nn.Module):
    """Something with a matrix in a block and a filter, for Muon, and vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([nn.Linear(8, 8)])
        self.filter = nn.Conv2d(8, 12, 2)
        self.out = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.blocks[0](x))[:, :, None, None].expand(-1, -1, 2, 2)
        out: Tensor = self.out(self.filter(hidden).flatten(1))
        return out


def run(net: Net, folder: Path, budget: Budget, stop_at: int | None = None) -> None:
    def losses(step: int) -> dict[str, Tensor]:
        if step == stop_at:
            raise Killed
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        return {"loss": (net(x) - x.sum(1, keepdim=True)).square().mean()}

    train_network("test", folder, {"net": net}, losses, budget)


@pytest.mark.parametrize("muon", ["none", "blocks", "filters"])
def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path: Path, muon: Literal["none", "blocks", "filters"]) -> None:
    budget = Budget(steps=40, lr=1e-2, warmup=5, muon=muon)
    whole, stopped, resumed = Net(), Net(), Net()
    run(whole, tmp_path / "whole", budget)
    with pytest.raises(Killed):
        run(stopped, tmp_path / "parts", budget, stop_at=17)
    run(resumed, tmp_path / "parts", budget)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_training_lowers_the_loss_and_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    net, again = Net(), Net()
    budget = Budget(steps=300, lr=1e-2, warmup=5, ema=0.9)
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    before = (net(x) - x.sum(1, keepdim=True)).square().mean()
    run(net, tmp_path, budget)
    assert (net(x) - x.sum(1, keepdim=True)).square().mean() < 0.3 * before
    run(again, tmp_path, budget, stop_at=0)  # would raise Killed if it trained
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run_before_it_harms_the_weights(tmp_path: Path, bad: str) -> None:
    net = Net()
    run(net, tmp_path, Budget(steps=3, lr=1e-3))

    def losses(step: int) -> dict[str, Tensor]:
        if bad == "loss":
            return {"loss": net(torch.full((1, 8), float("nan"))).sum()}
        return {"loss": (net(torch.zeros(1, 8)).sum() * 0).sqrt()}  # 0, with a slope of 0 times infinity

    with pytest.raises(ValueError, match=r"at step 3; the weights before it are in .*lower the learning rate"):
        train_network("test", tmp_path, {"net": net}, losses, Budget(steps=5, lr=1e-3))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 3 and all(value.isfinite().all() for value in state["network"].values())
    run(Net(), tmp_path, Budget(steps=5, lr=1e-4))  # and it can go on


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_stop_ends_the_step_and_saves(tmp_path: Path, number: int) -> None:
    net = Net()

    def losses(step: int) -> dict[str, Tensor]:
        if step == 4:
            signal.raise_signal(number)
        return {"loss": net(torch.ones(1, 8)).square().sum()}

    with pytest.raises(Stop) as stop:
        train_network("test", tmp_path, {"net": net}, losses, Budget(steps=50, lr=1e-3))
    assert stop.value.number == number
    kept = f"test is at step 5 of 50, saved in {tmp_path / 'state.pt'}; run the same command again to resume"
    assert stop.value.kept == kept
    assert saved_step(tmp_path) == 5


def test_a_request_to_save_is_met_and_training_goes_on(tmp_path: Path) -> None:
    net, kept, text = Net(), dict[int, int](), list[str]()

    class Noting(SilentScreen):
        def say(self, sentence: str) -> None:
            text.append(sentence)

    def losses(step: int) -> dict[str, Tensor]:
        if step == 4:
            signal.raise_signal(signal.SIGUSR1)
        if step == 5:
            kept[step] = saved_step(tmp_path)
        return {"loss": net(torch.ones(1, 8)).square().sum()}

    train_network("test", tmp_path, {"net": net}, losses, Budget(steps=8, lr=1e-3), screen=Noting())
    assert kept == {5: 5} and saved_step(tmp_path) == 8
    assert text == [f"test step 5: saved in {tmp_path / 'state.pt'}; training continues"]


def test_a_request_to_stop_cuts_what_is_watched_short(tmp_path: Path) -> None:
    net, expected = Net(), Net()
    budget = Budget(steps=6, lr=1e-2)

    def watch(step: int) -> dict[str, float]:
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("watched on")
        return {"figure": 1.0}

    def losses_of(one: Net) -> dict[str, Tensor]:
        return {"loss": one(torch.ones(1, 8)).square().sum()}

    with pytest.raises(Stop):
        train_network(
            "test", tmp_path / "parts", {"net": net}, lambda step: losses_of(net), budget, watch, watch_every=3
        )
    assert saved_step(tmp_path / "parts") == 3
    again = Net()
    train_network("test", tmp_path / "parts", {"net": again}, lambda step: losses_of(again), budget)
    train_network("test", tmp_path / "whole", {"net": expected}, lambda step: losses_of(expected), budget)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), expected.parameters(), strict=True))


def test_half_a_step_is_never_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request to stop comes while AdamW moves."""
    run(Net(), tmp_path, Budget(steps=3, lr=1e-2))
    kept = (tmp_path / "state.pt").read_bytes()

    def stopped(*_: object, **__: object) -> None:
        raise Stop(signal.SIGTERM)

    monkeypatch.setattr(torch.optim.AdamW, "step", stopped)
    with pytest.raises(Stop):
        run(Net(), tmp_path, Budget(steps=6, lr=1e-2))
    assert (tmp_path / "state.pt").read_bytes() == kept


def saved_step(folder: Path) -> int:
    return int(torch.load(folder / "state.pt", weights_only=True)["step"])


def test_a_broken_checkpoint_is_told_in_one_sentence(tmp_path: Path) -> None:
    run(Net(), tmp_path, Budget(steps=2, lr=1e-3))
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is broken or of another recipe"):
        run(Net(), tmp_path, Budget(steps=4, lr=1e-3))


def test_the_learning_rate_rises_stays_and_falls() -> None:
    budget = Budget(steps=100, lr=1.0, warmup=10, cooldown=0.5)
    rates = [budget.lr_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[10:50] == [1.0] * 40
    assert rates[75] == pytest.approx(0.5) and 0 < rates[99] <= 0.02
