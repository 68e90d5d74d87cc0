"""Prompt accuracy: the share of clips that show everything their prompt names, as the embedded judge sees them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewstep.eval.metrics import paired
from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure, wilson
from fewstep.teacher.shapes.captions import agreement
from fewstep.teacher.shapes.judge import judge_sha256, load_judge
from fewstep.teacher.shapes.world import ATTRIBUTES

_UNIT = "share of clips"


class PromptAccuracy(Metric):
    """Keeps what the judge says of each attribute: 1 right, 0 wrong, -1 not named by the prompt."""

    name = "prompt-accuracy"
    reads_prompts = True

    def __init__(self, device: torch.device | str = "cpu", **of_torchmetrics: Any) -> None:
        super().__init__(**of_torchmetrics)
        self._judge = load_judge(device=str(device))

    def protocol(self) -> dict[str, Any]:
        return {"judge_sha256": judge_sha256()}

    def measure(self, clips: Clips) -> Tensor:
        shown, _ = self._judge.read(clips.videos.to(self._judge.feature_mean.device))
        right = [agreement(values, prompt) for values, prompt in zip(shown, clips.prompts, strict=True)]
        return torch.tensor([[int(r[name]) if name in r else -1 for name in ATTRIBUTES] for r in right])

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        right = _right(own)
        return {self.name: figure(wilson(int(right.sum()), len(right)), len(right), _UNIT, "higher")}

    def difference(self, own: Tensor, other: Tensor) -> Figures:
        own_right, other_right = _right(own), _right(other)
        interval = paired.mean_difference(own_right, other_right)
        return {
            self.name: figure(interval, len(own_right), _UNIT, "higher")
            | {"differing": int((own_right != other_right).sum())}
        }


def _right(judged: Tensor) -> Tensor:
    """Whether a clip shows all that its prompt names, (N,), of the clips whose prompts name anything."""
    known = judged[(judged >= 0).any(1)]
    return (known != 0).all(1)
