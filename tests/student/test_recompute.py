"""What gradient checkpointing computes again, and that gradients stay what they were."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep.distill.recipe import Recipe
from fewstep.distill.untrained import untrained_trainer
from fewstep.student.recompute import Recompute, block_checkpoint
from fewstep.teacher.load_teacher import load_teacher
from tests.distill.counters import recipe_of

KINDS: tuple[Recompute, ...] = (True, "selective")


class Kernels(TorchDispatchMode):
    """Counts torch's kernels that run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func.__name__.split(".")[0].lstrip("_")] += 1
        return func(*args, **(kwargs or {}))


class Block(nn.Module):
    """Attention between two linear layers, as in any transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q = self.enter(x).unflatten(-1, (2, 8)).transpose(1, 2)
        return x + self.leave(F.scaled_dot_product_attention(q, q, q).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("kind", "attentions", "linears"), [(False, 1, 2), (True, 2, 3), ("selective", 1, 3)])
def test_what_runs_again(kind: Recompute, attentions: int, linears: int) -> None:
    """A pass ends as soon as all that the backward pass needs is there, so that the last layer is not run again."""
    block, x = Block(), torch.randn(2, 6, 16, requires_grad=True)
    with Kernels() as kernels:
        made = block_checkpoint(kind)(block, x) if kind else block(x)
        made.sum().backward()
    assert kernels.counts["scaled_dot_product_flash_attention_for_cpu"] == attentions
    assert kernels.counts["addmm"] == linears


@pytest.mark.parametrize(
    ("family", "backbone"),
    [
        ("tiny_wan_folder", "trained"),
        # tests/student/test_experts.py has gradients of two experts
        pytest.param("tiny_experts_folder", "frozen", marks=pytest.mark.slow),
        # a run of tests/commands/test_text_free.py computes blocks of a UNet again
        pytest.param("tiny_sdxl_folder", "frozen", marks=pytest.mark.slow),
        pytest.param("tiny_mochi_folder", "trained", marks=pytest.mark.slow),
        pytest.param("tiny_svd_folder", "frozen", marks=pytest.mark.slow),
    ],
)
def test_an_adversarial_step_is_the_same_to_the_bit(family: str, backbone: str, request: pytest.FixtureRequest) -> None:
    recipe = recipe_of(request.getfixturevalue(family), backbone=backbone)
    plain, *again = (weights_after_a_step(recipe, kind) for kind in (False, *KINDS))
    for weights in again:
        assert weights.keys() == plain.keys() and all(torch.equal(weights[name], plain[name]) for name in plain)


def weights_after_a_step(recipe: Recipe, kind: Recompute) -> dict[str, Tensor]:
    teacher = load_teacher(recipe.teacher, device="cpu")
    size = teacher.default_size()
    assert size is not None
    teacher.use_size(size)
    conditions = teacher.conditions_of_any(["a red ball"], "", size)
    changed = recipe.model_copy(update={"gradient_checkpointing": kind})
    torch.manual_seed(0)
    trainer = untrained_trainer(changed, 0, teacher, conditions, size, Accelerator(cpu=True), 2)
    trainer.one_step()
    return {
        f"{group}.{number}": parameter.detach().clone()
        for group, optimized in trainer.optimizer_groups.items()
        for number, parameter in enumerate(optimized.parameters)
    }
