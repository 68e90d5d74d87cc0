"""Nodes of samplers that are no shifted even steps, as functions of the position: 1 is noise, 0 is data."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T", float, Tensor)
_LINEAR_PART = 0.025  # of the way to the data, which linear-quadratic nodes go in their first half (Mochi 1)


def linear_quadratic(x: _T) -> _T:
    """The time of position x, 1 (noise) to 0 (data), on Mochi's own nodes: small equal steps, then growing ones.

    Of an even number of steps these are diffusers' `linear_quadratic_schedule`, where each half has half the steps.
    """
    p, slope = 1 - x, _LINEAR_PART
    curve = 8 * (0.5 - slope) * p**2 + (10 * slope - 4) * p + 1 - 2 * slope
    return 1 - _where(p <= 0.5, 2 * slope * p, curve)


def linear_quadratic_position(t: _T) -> _T:
    """The inverse of `linear_quadratic`."""
    way, slope = 1 - t, _LINEAR_PART
    a, b, c = 8 * (0.5 - slope), 10 * slope - 4, 1 - 2 * slope
    return 1 - _where(way <= slope, way / (2 * slope), (-b + abs(b * b - 4 * a * (c - way)) ** 0.5) / (2 * a))


def _where(condition: bool | Tensor, then: _T, otherwise: _T) -> _T:
    if isinstance(condition, Tensor):
        chosen: Any = torch.where(condition, then, otherwise)
        return chosen
    return then if condition else otherwise
