"""Networks whose weights are split over the processes of a run (FSDP2): whoever asks one, all processes must.

Each pass gathers weights from every process, so a pass that one of them leaves out makes the others wait.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from fewstep.teacher.bases import Bases
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.experts import Experts, parts_of

_FSDP = "torch.distributed.fsdp"  # its import takes a second, and whoever shards has imported it


def is_sharded(network: nn.Module) -> bool:
    """Whether a network, or one that it is made of, is split."""
    fsdp: Any = sys.modules.get(_FSDP)
    return fsdp is not None and any(isinstance(module, fsdp.FSDPModule) for module in network.modules())


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
