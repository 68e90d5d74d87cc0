"""What families share whose pipelines pass even sigmas to their scheduler, which bends them with its shift."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.teacher.stock import Contract, StockScheduler


class PassedSigmas:
    """To be named before `Teacher` among a family's bases."""

    def stock_scheduler(self, contract: Contract) -> StockScheduler:
        """FlowMatchEuler with the contract's shift: FlowMapEuler takes no sigmas."""
        return StockScheduler("FlowMatchEulerDiscreteScheduler", {"shift": contract.shift}, from_config=False)

    def stock_timesteps(self, scheduler: Any, contract: Contract) -> Tensor:
        """Its nodes for the sigmas that the pipeline passes."""
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.0, contract.steps + 1)[:-1])
        return torch.as_tensor(scheduler.timesteps, dtype=torch.float64)
