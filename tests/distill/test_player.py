"""A player's step: clipped, scheduled, averaged over processes, and withheld when a gradient is not finite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from fewstep.distill.player import Player

TWO_PROCESSES = """
import torch
from accelerate import Accelerator
from fewstep.distill.player import Player
accelerator = Accelerator(cpu=True)
one, two = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
player = Player([one, two], 1.0, (0.9, 0.999), 0.0, 1e9)
one.grad = torch.tensor([1.0, -3.0]) * (1 if accelerator.process_index else 3)  # mean 2, -6
player.step(accelerator, 0.0)
norm = (2**2 + 6**2) ** 0.5
one.grad = torch.tensor([1.0, -3.0]) * (1 if accelerator.process_index else 3)
assert abs(player.step(accelerator, 1.0) - norm) < 1e-5, accelerator.process_index
open(f"{__file__}.{accelerator.process_index}", "w").write(str(accelerator.num_processes))  # stdout would mix
accelerator.wait_for_everyone()
accelerator.end_training()
"""


def player(parameter: nn.Parameter, clip: float = 1.0) -> Player:
    return Player([parameter], 0.1, (0.0, 0.0), 0.0, clip)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([torch.nan, 1.0])
    assert torch.isnan(torch.tensor(player(parameter).step(Accelerator(cpu=True), 1.0)))
    assert parameter.tolist() == [1, 1] and parameter.grad is None


def test_a_step_is_as_long_as_its_scale() -> None:
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.tensor([4.0])
    assert player(parameter).step(Accelerator(cpu=True), 0.5) == pytest.approx(4.0)
    assert parameter.item() == pytest.approx(1 - 0.05)


def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"two.py.{rank}").read_text() for rank in range(2)] == ["2", "2"]
