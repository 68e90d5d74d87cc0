"""FilterMuon agrees with torch's Muon on matrices, and steps filters like the matrices they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewstep.teacher.filter_muon import FilterMuon, orthogonal


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (16, 16)])
def test_updates_are_nearly_orthogonal(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3


def test_equals_torch_muon_on_a_matrix() -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(24, 48), [torch.randn(24, 48) for _ in range(3)]
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = (
        FilterMuon([ours], lr=0.01),
        torch.optim.Muon([theirs], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    )
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    # torch iterates in bfloat16
    assert float((ours - theirs).detach().norm() / (ours - start).detach().norm()) < 0.05


def test_filters_are_stepped_as_matrices() -> None:
    torch.manual_seed(0)
    filters = nn.Parameter(torch.randn(16, 4, 3, 3, 3))
    matrix = nn.Parameter(filters.detach().flatten(1).clone())
    filters.grad = torch.randn_like(filters)
    matrix.grad = filters.grad.flatten(1).clone()
    FilterMuon([filters], lr=0.1).step()
    FilterMuon([matrix], lr=0.1).step()
    assert torch.equal(filters.flatten(1), matrix)
