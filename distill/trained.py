"""What a stage trains, and what a checkpoint holds of it: weights, averages, and what optimizers remember."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.distill import sharded_checkpoint
from fewstep.distill.checkpoint import check_tensors
from fewstep.distill.optimizer_group import OptimizerGroup
from fewstep.distill.parallel import fill, is_shard
from fewstep.student.denoiser import Roles


class Trained:
    """The student in `roles` with its average, the `modules` that its objective trains besides it, and the optimizers
    of both (`groups`)."""

    def __init__(self, roles: Roles, modules: Mapping[str, nn.Module], groups: Mapping[str, OptimizerGroup]) -> None:
        self._roles, self._modules, self._groups = roles, modules, groups
        self.sharded = any(is_shard(p) for group in groups.values() for p in group.parameters)

    def tensors(self) -> dict[str, Any]:
        """Nested by their names: the tensors themselves, or this process's parts of them."""
        return {
            "student": {name: p.detach() for name, p in self._roles.parameters.items()},
            "average": self._roles.average if self._roles.keeps_average else {},
            "modules": {name: module.state_dict() for name, module in self._modules.items()},
            "optimizers": {name: group.state() for name, group in self._groups.items()},
        }

    @property
    def fingerprint(self) -> str:
        """The same in all processes that hold all of it, or they have parted."""
        if self.sharded:
            return "in parts"
        held = [*self._roles.parameters.values(), *self._roles.average.values()]
        held += [parameter for module in self._modules.values() for parameter in module.parameters()]
        norm = torch.stack([tensor.detach().double().square().sum().cpu() for tensor in held]).sum()
        return f"{float(norm):.10g}"

    @torch.no_grad()
    def take(self, checkpoint: dict[str, Any] | Path) -> None:
        """The tensors of a checkpoint: what a single file holds, or the folder that processes wrote together.

        Raises whatever torch raises for one that does not fit, ValueError for numbers that are not finite.
        """
        if isinstance(checkpoint, Path):
            self._take_parts(checkpoint)
        else:
            check_tensors(checkpoint)
            self._take_whole(checkpoint)

    def _take_whole(self, state: Mapping[str, Any]) -> None:
        for name, parameter in self._roles.parameters.items():
            fill(parameter, state["student"][name])
            if self._roles.keeps_average:
                fill(self._roles.average[name], state["average"][name])
        for name, module in self._modules.items():
            for key, tensor in module.state_dict().items():
                fill(tensor, state["modules"][name][key])
        for name, group in self._groups.items():
            group.load(state["optimizers"][name])

    def _take_parts(self, checkpoint: Path) -> None:
        known = sharded_checkpoint.remembered(checkpoint)
        moments = {name: group.to_load(known.get(name, {})) for name, group in self._groups.items()}
        sharded_checkpoint.load_tensors(checkpoint, self.tensors() | {"optimizers": moments})
        for name, group in self._groups.items():
            group.take_loaded(moments[name])
