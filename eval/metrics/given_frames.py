"""Whether clips keep the images that they were given as first and last frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio

from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure, mean_interval
from fewstep.eval.metrics.paired import mean_difference
from fewstep.eval.metrics.teacher_gap import MAX_PSNR
from fewstep.teacher.base import VideoSize
from fewstep.teacher.given import FROM_CLIP, OF_CLIPS, given_names, read_given, to_pixels


class FramePsnr(Metric):
    """PSNR of a clip's first and last frames to the images given as such, in dB: the mean of those that are given."""

    name = "frame-psnr"
    reads_prompts = True

    def __init__(self, prompts: Sequence[str], size: VideoSize, fps: float) -> None:
        """Raises ValueError when the prompts come with neither a first nor a last frame."""
        super().__init__()
        self._size, self._fps = size._replace(num_frames=1), fps
        self._frames = [name for name in given_names(prompts) if name in OF_CLIPS]
        if not self._frames:
            raise ValueError(f"no frame is given with the prompts: pass a .jsonl file with {' or '.join(OF_CLIPS)}")

    def measure(self, clips: Clips) -> Tensor:
        given = read_given(clips.prompts, dict.fromkeys(self._frames, self._size), self._fps)
        values = []
        for name, pictures in given.items():
            own = clips.videos[:, :, FROM_CLIP[OF_CLIPS[name]]]
            target = to_pixels(pictures).to(own)
            values.append(peak_signal_noise_ratio(own, target, (-1.0, 1.0), reduction="none", dim=(1, 2, 3, 4)))
        return torch.stack(values).clamp_max(MAX_PSNR).mean(0)

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        return {self.name: figure(mean_interval(own), len(own), "dB", "higher")}

    def difference(self, own: Tensor, other: Tensor) -> Figures:
        return {self.name: figure(mean_difference(own, other), len(own), "dB", "higher")}
