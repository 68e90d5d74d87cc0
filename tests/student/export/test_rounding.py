"""Which layers are rounded: all that the tolerance allows, the least harmful first, and the network stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from fewstep.student.export.rounding import choose_layers
from fewstep.student.export.stock import merged_network
from fewstep.student.loading import Student


def coarse(weight: Tensor) -> Tensor:
    """An error of 5 % of the mean weight, of a sign that looks random."""
    return weight + 0.05 * weight.abs().mean() * torch.sign(torch.sin(1e4 * weight))


def test_as_many_layers_as_the_tolerance_allows(make_student: Callable[..., Student]) -> None:
    student = make_student("wan32", "full")
    network = merged_network(student)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    few, most, all_ = (choose_layers(student, network, tolerance, coarse) for tolerance in (2e-3, 6e-3, 10.0))
    assert 0 < few.share < most.share < all_.share < 1
    assert all(name.startswith("blocks.") for name in all_.names) and len(all_.names) == all_.num_layers == 20
    assert set(few.names) < set(all_.names) and few.other_error < all_.other_error
    assert "; the others would cost most" in few.note and "embeddings and output head" in all_.note
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_layer_without_effect_goes_first(make_student: Callable[..., Student]) -> None:
    student = make_student("wan32", "full")
    network = deepcopy(merged_network(student))  # other tests have the same student
    network.blocks[1].ffn.net[2].weight.zero_()
    chosen = choose_layers(student, network, 1e-3, lambda weight: weight * (1 + 1e-2))
    assert "blocks.1.ffn.net.2" in chosen.names and len(chosen.names) < chosen.num_layers


def test_a_student_that_cannot_be_rounded_is_refused(make_student: Callable[..., Student]) -> None:
    student = make_student("wan32", "full")
    network = merged_network(student)
    with pytest.raises(ValueError, match="no linear layer of this student can be rounded to 8-bit"):
        choose_layers(student, network, 1e-12, torch.sign)
    with pytest.raises(ValueError, match="widths must be divisible by 1000"):
        choose_layers(student, network, 1.0, torch.sign, multiple=1000)
