"""How far a student's x0 is from the one that lands on the supervisor's endpoint."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fewstep.teacher.given import KeptLatents
from fewstep.teacher.schedule import NoiseSchedule

Regression = Literal["mse", "huber"]


def regress(
    schedule: NoiseSchedule,
    x0: Tensor,
    target: Tensor,
    t: Tensor,
    kind: Regression = "mse",
    huber_c: float = 0.1,
    kept: KeptLatents | None = None,
) -> Tensor:
    """The mean over clips and elements of the error as the student's own prediction has it at t (B,), t > 0.

    x0 and target are (B, ...). mse: d^2, with d^2 = loss_weight(t) (x0 - target)^2. huber: pseudo-Huber
    (arXiv 2310.14189, Sec. 3.3) of each element, 2 c (sqrt(d^2 + c^2) - c): the same as mse where d is well below
    `huber_c`, and 2 c |d| well above. What the conditions keep is left out of the mean.
    """
    # the squared error of the student's own prediction: of v it is SNR + 1 times that of x0 (arXiv 2202.00512, Sec. 4)
    weight = schedule.loss_weight(t).to(x0.device, x0.dtype)
    squared = weight.view(-1, *[1] * (x0.ndim - 1)) * (x0 - target).square()
    if kind == "huber":
        # equal to the formula above, but a small d is not lost in a difference of nearly equal numbers
        squared = 2 * squared / ((squared / huber_c**2 + 1).sqrt() + 1)
    if kept is not None:
        squared = squared[~kept.mask.expand_as(squared)]
    return squared.mean()
