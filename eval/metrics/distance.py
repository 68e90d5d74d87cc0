"""The distance of a model's clips to a reference, in the features of one network: shapes-fd, fvd and their like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.feature_cache import cached_features
from fewstep.eval.metrics import paired
from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure
from fewstep.eval.metrics.features import FeatureNetwork, distance_figures, open_features
from fewstep.eval.metrics.kernel import kernel_interval
from fewstep.eval.metrics.shapes import Progress
from fewstep.eval.reference import ClipSource, RealClips


class Distance(Metric):
    """Keeps features. `real` are the clips an evaluation takes the distance to; without them it is to the teacher's
    others.

    In other loops `update(videos, real=True)` adds the clips that it is taken to, and reset_real_features=False keeps
    their features over `reset`. A MetricCollection asks the network once, from its second batch on, for
    all distances in the same features.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        real: RealClips | None = None,
        reset_real_features: bool = True,
        **of_torchmetrics: Any,
    ) -> None:
        super().__init__(network.name, **of_torchmetrics)
        self.network, self.real, self._resets_real = network, real, reset_real_features
        self._real_rows = self._add_rows("real_rows")

    @property
    def reference(self) -> Tensor:
        """Features (M, D) of the reference clips. Raises ValueError before there are any."""
        return self._all(self._real_rows, "real clips")

    @reference.setter
    def reference(self, features: Tensor) -> None:
        setattr(self, self._real_rows, [features])

    def update(
        self,
        videos: Tensor,
        prompts: Sequence[str] | None = None,
        teacher: Tensor | None = None,
        real: bool = False,
    ) -> None:
        """Adds features of clips (B, 3, F, H, W) in -1..1, or of real ones; prompts and teacher are ignored."""
        self._keep(self._real_rows if real else self._rows, self.measure(self._seen(videos, None)))

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Only `update`: a single batch has no distance."""
        self.update(*args, **kwargs)

    def reset(self) -> None:
        """Drops the clips, and the real ones unless they are to be kept."""
        kept = list(getattr(self, self._real_rows))
        super().reset()
        if not self._resets_real:
            setattr(self, self._real_rows, kept)

    def protocol(self) -> dict[str, Any]:
        reference = self.real.reference.protocol if self.real else {"kind": "the teacher's clips of other noise"}
        return self.network.protocol() | {"reference": reference}

    def measure(self, clips: Clips) -> Tensor:
        return self.network.features(clips.videos)

    def features(self, source: ClipSource, batch: int, progress: Progress) -> Tensor:
        """Features (M, D) of real clips, computed once for all evaluations of one protocol."""

        def compute() -> Tensor:
            features = []
            for start in range(0, source.count, batch):
                rows = range(start, min(start + batch, source.count))
                features.append(self.network.features(source.read(rows)))
                progress(f"real clips, {self.name}", rows.stop, source.count)
            return torch.cat(features)

        return cached_features({"network": self.network.protocol(), "clips": source.protocol}, compute)

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        return distance_figures(self.name, own, self.reference)

    def difference(self, own: Tensor, other: Tensor) -> Figures:
        own_distance, other_distance = (paired.distance(features, self.reference) for features in (own, other))
        metrics = figure(paired.difference(own_distance, other_distance).interval, len(own), better="lower")
        return {self.name: metrics | {"dimensions": own.shape[1], "reference_num": len(self.reference)}}


class FVD(Distance):
    """The Frechet video distance, by the protocol of StyleGAN-V: I3D's logits of 16 frames. See `Distance`."""

    def __init__(self, weights: str | Path | None = None, device: str = "cpu", **settings: Any) -> None:
        """`weights`: I3D's, as `--fvd-weights` of `fewstep evaluate`; None: the public file, which is downloaded.

        Raises ValueError when they cannot be loaded.
        """
        super().__init__(open_features("fvd", weights, device), **settings)


class KernelDistance(Distance):
    """The kernel distance alone, which is unbiased at any number of clips, in any network's features."""

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        interval = kernel_interval(own, self.reference)
        return {f"{self.name}-kernel": figure(interval, len(own), better="lower")}

    def difference(self, own: Tensor, other: Tensor) -> Figures:
        return {}
