"""Feature networks behind one interface, and the distances that their features give.

A network makes one feature vector of each clip; `distance_figures` compares two sets of them. Figures are only
comparable under the same protocol: `FeatureNetwork.protocol()`, the number of clips, and the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from fewstep.eval.metrics.clips import Figures, figure
from fewstep.eval.metrics.frechet import extrapolated, frechet_interval
from fewstep.eval.metrics.fvd import FvdFeatures
from fewstep.eval.metrics.kernel import kernel_interval
from fewstep.eval.metrics.shapes import ShapesFeatures
from fewstep.eval.metrics.transformers_features import HUB_IDS, TransformersFeatures

DISTANCE_NAMES = ("shapes-fd", "fvd", *HUB_IDS)


class FeatureNetwork(Protocol):
    """Turns clips into the features of one distance."""

    name: str  # of the distance: one of NAMES
    min_frames: int  # of a clip

    def protocol(self) -> dict[str, Any]:
        """Everything that figures depend on (frames, resize, value range, dimensions, weights, versions), as JSON."""
        ...

    def features(self, videos: Tensor) -> Tensor:
        """Features (B, D), float32, on the CPU, of videos (B, 3, F, H, W) in -1..1.

        Raises ValueError for clips that the network cannot read, such as too short ones.
        """
        ...


def open_features(name: str, weights: str | Path | None = None, device: str = "cpu") -> FeatureNetwork:
    """The network of a distance. `weights` is a file, a folder or a hub id; None is the usual hub id, and downloads.

    Raises ValueError when there is no such distance, or its weights cannot be loaded: there is no fallback.
    """
    if name == "shapes-fd":
        if weights is not None:
            raise ValueError("shapes-fd takes the embedded judge and no other weights: leave them out")
        return ShapesFeatures(device)
    if name == "fvd":
        return FvdFeatures(weights, device)
    if name in HUB_IDS:
        return TransformersFeatures(name, weights, device)
    raise ValueError(f"there is no distance {name}: choose among {', '.join(DISTANCE_NAMES)}")


def distance_figures(name: str, samples: Tensor, reference: Tensor, seed: int = 0) -> Figures:
    """Figures of features (N, D) against those of the reference (M, D), each with a 95 % interval.

    NAME                the Frechet distance of these N clips: comparable at the same N only
    NAME-extrapolated   its limit for infinitely many clips; only with at least four clips for each of the D dimensions
    NAME-kernel         the kernel distance, unbiased at any N
    """
    intervals = {
        name: frechet_interval(samples, reference, seed),
        f"{name}-extrapolated": extrapolated(samples, reference, seed),
        f"{name}-kernel": kernel_interval(samples, reference),
    }
    metrics = {key: figure(interval, len(samples), better="lower") for key, interval in intervals.items() if interval}
    metrics[name] |= {"dimensions": samples.shape[1], "reference_num": len(reference)}  # what it takes to trust it
    return metrics
