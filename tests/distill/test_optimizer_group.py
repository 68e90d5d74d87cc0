"""An optimizer's step: clipped, scheduled, averaged over processes, and withheld when a gradient is not finite."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from fewstep.distill.optimizer_group import OptimizerGroup
from tests.forked import run_scripts

TWO_PROCESSES = """
import os, torch
from accelerate import Accelerator
from fewstep.distill.optimizer_group import OptimizerGroup
from fewstep.teacher.ranks import join_processes
threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self") else 1
join_processes(cpu=True)
accelerator = Accelerator(cpu=True)
one, two = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))
group = OptimizerGroup([one, two], 1.0, (0.9, 0.999), 0.0, 1e9)
one.grad = torch.tensor([1.0, -3.0]) * (1 if accelerator.process_index else 3)  # mean 2, -6
group.gather(accelerator)
group.step(0.0)
norm = (2**2 + 6**2) ** 0.5
one.grad = torch.tensor([1.0, -3.0]) * (1 if accelerator.process_index else 3)
assert abs(group.gather(accelerator) - norm) < 1e-5, accelerator.process_index
open(f"{__file__}.{accelerator.process_index}", "w").write(str(accelerator.num_processes))  # stdout would mix
accelerator.wait_for_everyone()
accelerator.end_training()
# a thread that were left of the process group might abort the process at its end
assert not os.path.isdir("/proc/self") or len(os.listdir("/proc/self/task")) == threads
"""


def group(parameter: nn.Parameter, clip: float = 1.0) -> OptimizerGroup:
    return OptimizerGroup([parameter], 0.1, (0.0, 0.0), 0.0, clip)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([torch.nan, 1.0])
    assert math.isnan(group(parameter).gather(Accelerator(cpu=True)))
    assert parameter.tolist() == [1, 1]


def test_a_step_is_as_long_as_its_scale() -> None:
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.tensor([4.0])
    mover = group(parameter)
    assert mover.gather(Accelerator(cpu=True)) == pytest.approx(4.0) and parameter.item() == 1
    mover.step(0.5)
    assert parameter.item() == pytest.approx(1 - 0.05) and parameter.grad is None


def test_a_long_gradient_is_clipped() -> None:
    """Adam forgets how long a first gradient is, but not how long the second is next to it."""
    moved = {}
    for clip in (1.0, 1e9):
        parameter = nn.Parameter(torch.zeros(1))
        one = OptimizerGroup([parameter], 0.1, (0.5, 0.5), 0.0, clip)
        for gradient in (100.0, 1.0):
            parameter.grad = torch.tensor([gradient])
            assert one.gather(Accelerator(cpu=True)) == gradient
            one.step(1.0)
        moved[clip] = parameter.item()
    assert moved[1.0] == pytest.approx(-0.2, abs=1e-3)  # two gradients of length 1
    assert moved[1e9] > -0.18


def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    run_scripts(2, script, logs=tmp_path)
    assert [(tmp_path / f"two.py.{rank}").read_text() for rank in range(2)] == ["2", "2"]
