"""The LoRA that is nearest to a fully trained network: the first singular vectors of what training changed."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from fewstep.student.adapters import shared_copy
from fewstep.student.denoiser import STUDENT_ADAPTER

_KINDS = (nn.Linear, nn.Conv2d, nn.Conv3d)
USUAL_RANK = 64
_EXACT_SIDE = 1024  # the whole SVD of larger matrices takes minutes each


@torch.no_grad()
def extract_adapter(base: nn.Module, network: nn.Module, rank: int) -> tuple[Any, float]:
    """The base with the adapter of this rank nearest to `network`, and how much of the change of weights it holds.

    The second value is |what is held| / |the change|, 0 to 1, over all parameters. Biases are held whole where all
    layers have one; norms and tables are not held.
    """
    layers = {name: module for name, module in base.named_modules() if isinstance(module, _KINDS)}
    biased = all(layer.bias is not None for layer in layers.values())  # or merging fails at those that have none
    # alpha = rank: the product B A is the change itself
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers), lora_bias=biased)
    adapted = shared_copy(base).requires_grad_(False)
    inject_adapter_in_model(config, adapted, STUDENT_ADAPTER)
    changes = changes_of(base, network)
    held = 0.0
    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLayer):
            held += _fill(layer, changes[f"{name}.weight"], rank)
            if biased:
                held += _fill_bias(layer, changes[f"{name}.bias"])
    return adapted, share_held(held, changes)


def changes_of(base: nn.Module, network: nn.Module) -> dict[str, Tensor]:
    """What training changed of each parameter, float32."""
    own = dict(network.named_parameters())
    return {name: own[name].float() - parameter.float() for name, parameter in base.named_parameters()}


def share_held(held: float, changes: dict[str, Tensor]) -> float:
    """|what is held| / |the change|, of the square of what is held."""
    total = sum(float(change.square().sum()) for change in changes.values())
    return (held / total) ** 0.5 if total else 1.0


def factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of this rank to a weight's change (out, *in): down (r, *in), up (out, r, 1, ...), where
    r <= rank is the change's own where that is less."""
    # W_student - W_teacher = U S V^T, cut at the rank: the nearest product; each factor gets the root of S
    u, s, v = _svd(change.flatten(1), rank)
    root, count = s.sqrt(), len(s)
    down = (root[:, None] * v.T).view(count, *change.shape[1:])
    up = (u * root).view(len(change), count, *[1] * (change.ndim - 2))
    return down.contiguous(), up.contiguous()


def _fill(layer: LoraLayer, change: Tensor, rank: int) -> float:
    """Sets the layer's adapter; returns the square of what it holds."""
    down: Any = layer.lora_A[STUDENT_ADAPTER].weight
    up: Any = layer.lora_B[STUDENT_ADAPTER].weight
    found_down, found_up = factors(change, rank)
    down.zero_()
    up.zero_()
    down[: len(found_down)] = found_down
    up[:, : len(found_down)] = found_up
    return square_of(found_down, found_up)


def square_of(down: Tensor, up: Tensor) -> float:
    """The square of a product of `factors`, whose rows and columns are orthogonal and as long as each other."""
    return float((down.flatten(1).square().sum(1) * up.flatten(1).square().sum(0)).sum())


def _fill_bias(layer: LoraLayer, change: Tensor) -> float:
    bias: Any = layer.lora_B[STUDENT_ADAPTER].bias
    bias.copy_(change)
    return float(change.square().sum())


def _svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """U (m, r), S (r,), V (n, r) of the largest singular values."""
    if min(matrix.shape) > _EXACT_SIDE:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the sketch is random, its result hardly
            u, s, v = torch.svd_lowrank(matrix, min(rank + 16, min(matrix.shape)), niter=4)
            return u[:, :rank], s[:rank], v[:, :rank]
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank], s[:rank], vh[:rank].T
