"""The learning rate's way over a training."""

from __future__ import annotations

import pytest

from fewstep.teacher.lr_scale import lr_scale


def test_the_learning_rate_rises_stays_and_falls() -> None:
    scales = [lr_scale(step, 10, 2, 0.5) for step in range(10)]
    assert scales == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert lr_scale(0, 1, 0, 0.0) == 1
