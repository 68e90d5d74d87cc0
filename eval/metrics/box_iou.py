"""Whether the object of a shapes clip is in the boxes that were given as its control."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure, mean_interval
from fewstep.eval.metrics.paired import mean_difference
from fewstep.teacher.base import VideoSize
from fewstep.teacher.given import given_names, read_given
from fewstep.teacher.shapes.world import PALETTE

_SATURATED = 60 / 127.5  # strongest minus weakest channel, of -1..1: backgrounds have at most some 30 of 255
_LIT = 2  # pixels that a row or column of the object must have: noise has single ones


class BoxIoU(Metric):
    """Intersection over union of the object's box in each frame with the given one, averaged over a clip's frames.

    The object is what has the clip's most frequent strong colour: a second object is smaller and of another colour.
    A frame without it counts 0.
    """

    name = "box-iou"
    reads_prompts = True

    def __init__(self, prompts: Sequence[str], size: VideoSize, fps: float) -> None:
        """Raises ValueError when no boxes, white on black, are given with the prompts."""
        super().__init__()
        self._sizes, self._fps = {"control": size}, fps
        if "control" not in given_names(prompts):
            raise ValueError("no control is given with the prompts: pass a .jsonl file with control")
        control = self._control(prompts[:1])
        if float(((control < 64) | (control > 191)).float().mean()) < 0.98:
            raise ValueError("the control that is given shows no boxes, white on black")

    def _control(self, prompts: Sequence[str]) -> Tensor:
        return read_given(prompts, self._sizes, self._fps)["control"]

    def measure(self, clips: Clips) -> Tensor:
        requested = [boxes(video.float().mean(0) > 127) for video in self._control(clips.prompts)]
        shown = [boxes(object_mask(video)) for video in clips.videos.cpu()]
        return torch.stack([iou(a, b).mean() for a, b in zip(requested, shown, strict=True)])

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        return {self.name: figure(mean_interval(own), len(own), "", "higher")}

    def difference(self, own: Tensor, other: Tensor) -> Figures:
        return {self.name: figure(mean_difference(own, other), len(own), "", "higher")}


def object_mask(video: Tensor) -> Tensor:
    """Where a clip (3, F, H, W) in -1..1 has its most frequent strong colour: (F, H, W) bool."""
    chroma = video - video.mean(0)
    palette = PALETTE.float() - PALETTE.float().mean(1, keepdim=True)
    palette = palette / palette.norm(dim=1, keepdim=True)
    nearest = torch.einsum("kc,cfhw->kfhw", palette, chroma).argmax(0)
    strong = video.amax(0) - video.amin(0) > _SATURATED
    counts = torch.bincount(nearest[strong], minlength=len(palette))
    return strong & (nearest == counts.argmax())


def boxes(mask: Tensor) -> Tensor:
    """Left, top, right, bottom (F, 4) of what is set in (F, H, W), edges between pixels; zeros where nothing is."""
    edges_of_frames = []
    for frame in mask:
        columns, rows = (torch.nonzero(frame.sum(dim) >= _LIT).flatten() for dim in (0, 1))
        empty = not len(columns) or not len(rows)
        edges = [0, 0, 0, 0] if empty else [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        edges_of_frames.append(torch.tensor(edges, dtype=torch.float32))
    return torch.stack(edges_of_frames)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Of boxes (N, 4) each with its counterpart, (N,); 0 where one is empty."""
    low, high = torch.maximum(first[:, :2], second[:, :2]), torch.minimum(first[:, 2:], second[:, 2:])
    common = (high - low).clamp_min(0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).prod(1) for box in (first, second)]
    return common / (areas[0] + areas[1] - common).clamp_min(1e-6)
