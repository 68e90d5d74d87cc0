"""Inputs of denoisers besides times, as users write them."""

from __future__ import annotations

import pytest

from fewstep.teacher.denoiser_inputs import ControlScale, one_scale


@pytest.mark.parametrize(
    ("written", "meant"),
    [(0.5, 0.5), (1, 1.0), ("0.5", 0.5), ("1,0.8", (1.0, 0.8)), ([0.5, 0.5], 0.5), ([0.5], 0.5), ([0, 1], (0.0, 1.0))],
)
def test_a_control_scale_is_a_number_or_one_for_each_layer(written: object, meant: ControlScale) -> None:
    assert one_scale(written) == meant


@pytest.mark.parametrize("written", [-0.1, 101, float("nan"), "much", "1,", [], [True], None, {"a": 1}])
def test_what_is_no_number_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"control_scale is .*: write a number from 0 to 100"):
        one_scale(written)
