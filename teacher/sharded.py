"""Networks that the processes of a run share, by their weights (FSDP2) or by the tokens of a clip (Ulysses, arXiv
2309.14509): whoever asks one, all processes must.

Each pass sends something between processes, so a pass that one of them leaves out makes the others wait.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from fewstep.teacher.bases import Bases
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.experts import Experts, every_network, parts_of

_FSDP = "torch.distributed.fsdp"  # its import takes a second, and whoever shards has imported it


def is_sharded(network: nn.Module) -> bool:
    """Whether a network, or one that it is made of, is split."""
    fsdp: Any = sys.modules.get(_FSDP)
    return fsdp is not None and any(isinstance(module, fsdp.FSDPModule) for module in network.modules())


def context_size(network: nn.Module) -> int:
    """Over how many processes each clip's tokens are split; 1 where they are not."""
    meshes = [_tokens_mesh(part) for part in every_network(network)]
    return max((mesh.size() for mesh in meshes if mesh is not None), default=1)


def all_tokens(network: nn.Module, output: Any) -> Any:
    """A block's output, its tokens (B, L, C) those of the whole clip; of a tuple the first entry has them.

    The network's gradients in a process are those through its own tokens: their sum over processes is the clip's. What
    reads all tokens is computed by every process alike, with the whole gradient in each. `shared_gradient`, on what is
    made of the tokens in the end, divides it, so that there, too, the sum is the clip's.
    """
    mesh = _tokens_mesh(network)
    if mesh is None:
        return output
    from diffusers.hooks.context_parallel import EquipartitionSharder

    tokens, *others = output if isinstance(output, tuple) else (output,)
    # backward, diffusers gives each process the gradient of its own tokens, which `shared_gradient` has divided
    whole: Tensor = EquipartitionSharder.unshard(_ScaledGradient.apply(tokens, mesh.size()), 1, mesh)
    return (whole, *others) if isinstance(output, tuple) else whole


def shared_gradient(output: Tensor, network: nn.Module) -> Tensor:
    """`output`, which every process that has a part of the clip computes alike: each passes on a share of gradients."""
    size = context_size(network)
    return _ScaledGradient.apply(output, 1 / size) if size > 1 else output


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def _tokens_mesh(network: nn.Module) -> Any:
    """Of the processes that diffusers splits a clip's tokens over, as `enable_parallelism` keeps it; None for none."""
    parallel = getattr(getattr(network, "_parallel_config", None), "context_parallel_config", None)
    return None if parallel is None else parallel._flattened_mesh


def wanted_by_any(wanted: Sequence[bool], device: torch.device) -> list[bool]:
    """Which of several passes any process wants, so that all take part in the same ones; the same in all processes."""
    flags = torch.tensor([int(is_wanted) for is_wanted in wanted], device=device)
    distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return [bool(flag) for flag in flags.tolist()]


def passes_of(
    network: Experts | Bases, times: Tensor, conditions: Conditions, device: torch.device
) -> list[tuple[nn.Module, Tensor, bool]]:
    """Who is asked about which rows, bool (B,), of a batch at these times (B,), and whether for their own sake.

    Of sharded experts one is also asked about a clip that is not its own, where another process asks it.
    """
    if isinstance(network, Bases):
        return [(base, rows, True) for base, rows in network.shares(network.numbers(conditions.shared, len(times)))]
    shares = {name: (expert, rows, True) for name, expert, rows in network.shares(times)}
    # FSDP2 gathers an expert's weights from all processes, so that all must ask the same experts
    if is_sharded(network):
        parts, first = parts_of(network), torch.arange(len(times)) == 0
        taking = wanted_by_any([name in shares for name in parts], device)
        # a process with no clip for one asks it about its first clip, and `taking_part` lets that count for nothing
        shares = {
            name: shares.get(name, (part, first, False))
            for (name, part), is_needed in zip(parts.items(), taking, strict=True)
            if is_needed
        }
    return list(shares.values())


def taking_part(output: Tensor, idle: Sequence[Tensor]) -> Tensor:
    """`output`, whose gradient goes through passes without clips as well: backward passes gather weights, too."""
    for other in idle:
        if other.requires_grad:
            output = output + 0 * other.sum()
    return output
