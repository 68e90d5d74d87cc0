"""A part of a network that is trained whole keeps what an adapter before it has learned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from fewstep.student.denoiser import Roles
from fewstep.teacher.load_teacher import load_teacher


def test_a_small_change_by_an_adapter_outlives_bfloat16(
    make_tiny_animatediff: Callable[..., None], tmp_path: Path
) -> None:
    """Added to weights of bfloat16, most of it would be rounded away."""
    make_tiny_animatediff(tmp_path / "teacher")
    teacher = load_teacher(tmp_path / "teacher", dtype=torch.bfloat16, device="cpu")
    teacher.restrict("motion")
    adapted = Roles(teacher, "lora", rank=4)
    torch.manual_seed(0)
    for parameter in adapted.average.values():
        parameter.copy_(torch.randn_like(parameter) * 1e-2)
    (tmp_path / "lora").mkdir()
    adapted.save(tmp_path / "lora")
    whole, began = Roles(teacher, "full", start=tmp_path / "lora"), Roles(teacher, "full")
    changes = {name: (p - began.parameters[name]).detach() for name, p in whole.parameters.items()}
    moved = {name: change for name, change in changes.items() if bool(change.any())}
    assert moved and all(p.dtype is torch.float32 and p.requires_grad for p in whole.parameters.values())
    # a change of rank 4: rounding would leave noise of every rank
    for name, change in moved.items():
        values = torch.linalg.svdvals(change.flatten(1).double())
        assert float(values[4:].sum()) < 1e-3 * float(values.sum()), name
