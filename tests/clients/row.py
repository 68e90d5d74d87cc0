"""A row of docs/results/clients.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Row:
    """client, version: the program. case: what was tried with an export of this format. result: what came of it, in
    words. relative_error: of latents, where some were compared. ok: it is as it should be."""

    client: str
    version: str
    format: str
    case: str
    result: str
    relative_error: float | None
    ok: bool


def compared(where: Sequence[str], case: str, own: Tensor, other: Tensor, most: float = 1e-5) -> Row:
    """A row of latents that should agree within `most`; where: client, version, format."""
    client, version, format = where
    error = float((other.to(own) - own).norm() / own.norm())
    return Row(client, version, format, case, "latents compared", error, error <= most)


def said(where: Sequence[str], case: str, result: str, ok: bool) -> Row:
    """A row without latents; where: client, version, format."""
    client, version, format = where
    return Row(client, version, format, case, result, None, ok)
