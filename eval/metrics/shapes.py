"""`shapes-fd` and prompt accuracy, by the embedded judge. Not FVD: other features, other clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.metrics.clips import wilson
from fewstep.eval.metrics.frechet import STATISTICS, Interval, frechet_interval
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.shapes.captions import agreement, example, rates
from fewstep.teacher.shapes.judge import FEATURES, Judge, batch, judge_sha256, load_judge
from fewstep.teacher.shapes.world import ATTRIBUTES, WORLD_FRAMES, WORLD_SIDE

REFERENCE_SEED, REAL_SEED = 1_000_000, 2_000_000  # worlds apart from every training seed
_BATCH = 32
Progress = Callable[[str, int, int], None]  # what is going on, done, total


def check_world(teacher: Teacher) -> VideoSize:
    """The teacher's clip size. Raises ValueError when it is not that of the shapes world, which the judge needs."""
    size = teacher.default_size()
    if size != (WORLD_FRAMES, WORLD_SIDE, WORLD_SIDE):
        raise ValueError(
            f"{teacher.folder} makes clips of {size and tuple(size)}, and the judge knows the shapes world only, whose "
            f"clips are {(WORLD_FRAMES, WORLD_SIDE, WORLD_SIDE)}: use shapes or a teacher trained on that world"
        )
    return VideoSize(*size)


class ShapesJudgement:
    """Collects clips; `distance()` is shapes-fd to real held-out clips, `accuracy()` is prompt accuracy."""

    def __init__(self, judge: Judge | None = None) -> None:
        self.judge = judge or load_judge()
        self._features: list[Tensor] = []
        self._right: list[dict[str, bool]] = []  # per clip, per attribute its prompt names

    @property
    def count(self) -> int:
        """Clips seen so far."""
        return len(self._right)

    @property
    def num_right(self) -> int:
        """Of them, those that show everything their prompt names."""
        return sum(all(right.values()) for right in self._right)

    def update(self, videos: Tensor, prompts: Sequence[str]) -> None:
        """videos (B, 3, 17, 64, 64) in -1..1, one prompt each. Raises ValueError for values that are not finite."""
        if not bool(videos.isfinite().all()):
            raise ValueError(
                f"some of clips {self.count} to {self.count + len(videos) - 1} have values that are not finite: their "
                "model has diverged; measure the others without it"
            )
        shown, features = self.judge.read(videos.to(self.judge.feature_mean.device))
        self._features.append(features.cpu())
        self._right += [agreement(values, prompt) for values, prompt in zip(shown, prompts, strict=True)]

    def features(self) -> Tensor:
        """(N, D)"""
        return torch.cat(self._features)

    def agreements(self) -> Tensor:
        """What the judge says of each attribute (N, attributes), int8: 1 right, 0 wrong, -1 not named by the prompt."""
        rows = [[int(right[name]) if name in right else -1 for name in ATTRIBUTES] for right in self._right]
        return torch.tensor(rows, dtype=torch.int8)

    def distance(self, reference: Tensor, seed: int = 0) -> Interval:
        """shapes-fd to reference features (N, D) and its 95 % interval."""
        return frechet_interval(self.features(), reference, seed)

    def accuracy(self) -> Interval:
        """Fraction of clips that show everything their prompt names, with its 95 % Wilson interval."""
        return wilson(self.num_right, self.count)

    def accuracy_per_attribute(self) -> dict[str, float]:
        """Fraction right per attribute, over the prompts that name it."""
        return rates(self._right)


class ShapesFeatures:
    """The embedded judge as a feature network."""

    name = "shapes-fd"
    min_frames = WORLD_FRAMES

    def __init__(self, device: str = "cpu") -> None:
        self._judge = load_judge(device=device)

    def protocol(self) -> dict[str, Any]:
        """What figures depend on besides the clips."""
        return {
            "network": "the embedded judge of the shapes world",
            "weights_sha256": judge_sha256(),
            "dimensions": FEATURES,
            "frames": WORLD_FRAMES,
            "resize": f"none: clips of {WORLD_SIDE}x{WORLD_SIDE} only",
            "value_range": "-1..1",
            "torch": torch.__version__,
            **STATISTICS,
        }

    def features(self, videos: Tensor) -> Tensor:
        """Features (B, D) of videos (B, 3, 17, 64, 64) in -1..1. Raises ValueError for clips of another size."""
        return self._judge.read(videos.to(self._judge.feature_mean.device))[1].float().cpu()


def held_out_prompts(count: int, seed: int) -> list[str]:
    """Captions of held-out scenes: neither text nor combination was ever trained on."""
    return [example("held-out", seed, i)[1] for i in range(count)]


def judge_real(count: int, seed: int, judge: Judge | None = None, progress: Progress | None = None) -> ShapesJudgement:
    """The judgement of `count` real held-out clips against their own captions."""
    judgement = ShapesJudgement(judge)
    for start in range(0, count, _BATCH):
        indices = range(start, min(start + _BATCH, count))
        videos, _ = batch("held-out", seed, indices)
        judgement.update(videos, [example("held-out", seed, i)[1] for i in indices])
        if progress is not None:
            progress("real clips", indices.stop, count)
    return judgement
