"""What turns share."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fewstep.distill.objectives.base import Batch


def test_noise_is_unit_noise_that_follows_the_draws(make_batch: Callable[..., Batch]) -> None:
    batch = make_batch(0, copies=50)
    noise = batch.noise()
    assert noise.shape == batch.x0.shape and noise.dtype == batch.x0.dtype
    assert abs(float(noise.std()) - 1) < 0.05 and abs(float(noise.mean())) < 0.05
    assert torch.equal(noise, make_batch(0, copies=50).noise())
    assert not torch.equal(noise, batch.noise())
