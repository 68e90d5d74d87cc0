"""The distance of a model's clips to a reference, in the features of one network: shapes-fd, fvd and their like."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fewstep.eval.feature_cache import cached_features
from fewstep.eval.metrics import paired
from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure
from fewstep.eval.metrics.features import FeatureNetwork, figures
from fewstep.eval.metrics.shapes import Progress
from fewstep.eval.reference import ClipSource, RealClips


class Distance(Metric):
    """Keeps features. `real` are the clips the distance is taken to; without them it is to the teacher's others."""

    reference: Tensor  # features (M, D), to be set before figures are asked for

    def __init__(self, network: FeatureNetwork, real: RealClips | None) -> None:
        self.name, self.network, self.real = network.name, network, real

    def protocol(self) -> dict[str, Any]:
        reference = self.real.reference.protocol if self.real else {"kind": "the teacher's clips of other noise"}
        return self.network.protocol() | {"reference": reference}

    def measure(self, clips: Clips) -> Tensor:
        return self.network.features(clips.videos)

    def features(self, source: ClipSource, batch: int, progress: Progress) -> Tensor:
        """Features (M, D) of real clips, taken once for all evaluations of one protocol."""

        def compute() -> Tensor:
            found = []
            for start in range(0, source.count, batch):
                rows = range(start, min(start + batch, source.count))
                found.append(self.network.features(source.read(rows)))
                progress(f"real clips, {self.name}", rows.stop, source.count)
            return torch.cat(found)

        return cached_features({"network": self.network.protocol(), "clips": source.protocol}, compute)

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        return figures(self.name, own, self.reference)

    def difference(self, own: Tensor, other: Tensor) -> Figures:
        one, two = (paired.distance(features, self.reference) for features in (own, other))
        found = figure(paired.difference(one, two).interval, len(own), better="lower")
        return {self.name: found | {"dimensions": own.shape[1], "reference_num": len(self.reference)}}
