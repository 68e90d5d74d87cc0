"""Gradients of two processes: averaged in buckets while the last backward pass goes on."""

from __future__ import annotations

from pathlib import Path

from tests.forked import run_scripts

TWO_PROCESSES = """
import math, torch
from torch import nn
from accelerate import Accelerator
from fewstep.distill import gradients
from fewstep.distill.gradients import AveragedGradients
from fewstep.teacher.ranks import join_processes

join_processes(cpu=True)
accelerator = Accelerator(cpu=True)
rank = accelerator.process_index
gradients._BUCKET, gradients._IN_FLIGHT = 32, 1  # a bucket per parameter of 8 numbers

def parameters():
    return [nn.Parameter(torch.ones(8)) for _ in range(4)]

def loss(of, factor):
    first, second, third, unused = of
    # the third is reached in the first process alone, and a share of the gradients differs between processes
    return factor * ((rank + 1) * first.sum() + 3 * second.sum() + (third.sum() if rank == 0 else 0))

def grads(of):
    return [None if p.grad is None else p.grad.unique().tolist() for p in of]

# one pass
own = parameters()
averaged = AveragedGradients(accelerator, own)
averaged.expect()
loss(own, 1.0).backward()
averaged.finish()
assert grads(own) == [[1.5], [3.0], [0.5], None], grads(own)

# two micro-batches, of which the last is sent while it is made: without the third and the unused all have left
own = parameters()
two = own[:2]
averaged = AveragedGradients(accelerator, two)
loss(own, 1.0).backward()
assert averaged._num_sent == 0
averaged.expect()
loss(own, 2.0).backward()
assert averaged._num_sent == 2, averaged._num_sent
averaged.finish()
assert grads(two) == [[4.5], [9.0]], grads(two)

# a pass that nobody expects, such as one of another group, sends nothing
loss(own, 1.0).backward()
assert averaged._num_sent == 0

# a loss that is not finite in one process is so in all, also where gradients have left already
own = parameters()
averaged = AveragedGradients(accelerator, own)
averaged.expect()
loss(own, 1.0).backward()
averaged.finish(finite=rank == 0)
assert all(math.isnan(p.grad.sum()) for p in own[:3]) and own[3].grad is None

# a second pass after gradients were sent is no last one
own = parameters()[:2]
averaged = AveragedGradients(accelerator, own)
averaged.expect()
(own[0].sum() + own[1].sum()).backward()
try:
    (own[0].sum() + own[1].sum()).backward()
except AssertionError as error:
    assert "twice" in str(error)
else:
    raise SystemExit("nobody minds")
averaged.finish()
open(f"{__file__}.{rank}", "w").write("done")  # stdout would mix
accelerator.wait_for_everyone()
accelerator.end_training()
"""


def test_two_processes_average_while_the_pass_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    run_scripts(2, script, logs=tmp_path)
    assert [(tmp_path / f"two.py.{rank}").read_text() for rank in range(2)] == ["done", "done"]
