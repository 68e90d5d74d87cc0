"""A change that is taken back leaves no trace, and comes again as it was."""

from __future__ import annotations

import pytest
from torch import nn

from fewstep.eval.latency.switch import Switch


def test_a_change_goes_off_and_on_again() -> None:
    layer = nn.Linear(2, 2)
    before, after = layer.weight, nn.Parameter(layer.weight.detach() * 2)
    switch = Switch([(layer, "weight")], lambda: setattr(layer, "weight", after))
    assert layer.weight is after
    switch.off()
    assert layer.weight is before and next(iter(layer.parameters())) is before
    switch.on()
    assert layer.weight is after


def test_a_change_that_fails_half_way_is_taken_back() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight

    def change() -> None:
        layer.weight = nn.Parameter(layer.weight.detach() * 2)
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        Switch([(layer, "weight")], change)
    assert layer.weight is before
