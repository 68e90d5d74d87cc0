"""Features of video transformers, whose distances see motion where I3D's see texture
(https://arxiv.org/abs/2404.12391).

`fd-videomae`: VideoMAE (https://arxiv.org/abs/2203.12602); `fd-vjepa2`: V-JEPA 2 (https://arxiv.org/abs/2506.09985).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.metrics.frechet import STATISTICS
from fewstep.eval.metrics.preprocess import eight_bits, first_frames, resized
from fewstep.eval.metrics.weights import find_weights_folder, metric_weights_sha256
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.loading import without_bars

HUB_IDS = {"fd-videomae": "MCG-NJU/videomae-base", "fd-vjepa2": "facebook/vjepa2-vitl-fpc64-256"}
_FAMILIES = {"fd-videomae": "videomae", "fd-vjepa2": "vjepa2"}
_PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
_FEWEST_FRAMES = 16  # for V-JEPA 2, which was made for 64 and takes any number; VideoMAE takes its own only
_CLIPS_AT_ONCE = 4


class TransformersFeatures:
    """The mean over all tokens of a transformer's last hidden state."""

    def __init__(self, name: str, weights: str | Path | None = None, device: str = "cpu") -> None:
        """`name` is one of HUB_IDS, `weights` a folder that save_pretrained wrote or a hub id, that one if None.

        Raises ValueError when they cannot be loaded, or are another kind of network's.
        """
        self.name = name
        folder = find_weights_folder(weights or HUB_IDS[name])
        self._network = _load(folder, _FAMILIES[name]).to(device)
        self._device = device
        self.weights_sha256 = metric_weights_sha256(folder)
        config = self._network.config
        # VideoMAE takes as many frames as it was trained on; V-JEPA 2 fewer as well
        if config.model_type == "videomae":
            self.min_frames = self._most_frames = config.num_frames
        else:
            self._most_frames = config.frames_per_clip
            self.min_frames = min(_FEWEST_FRAMES, self._most_frames)
        side = config.image_size if config.model_type == "videomae" else config.crop_size
        self._size: tuple[int, int] = (side, side) if isinstance(side, int) else tuple(side)
        self._mean, self._std = _normalisation(folder)

    def protocol(self) -> dict[str, Any]:
        """What figures depend on besides the clips."""
        import transformers

        return {
            "network": f"{self._network.config.model_type}, mean of the last hidden state",
            "weights_sha256": self.weights_sha256,
            "dimensions": self._network.config.hidden_size,
            "frames": f"the first {self._most_frames}, or a multiple of {self._tubelet} where there are fewer",
            "resize": f"whole frame to {self._size[0]}x{self._size[1]}, bilinear, antialiased",
            "value_range": f"0..1, rounded to 8 bits, then mean {self._mean} and deviation {self._std} made 0 and 1",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **STATISTICS,
        }

    @torch.no_grad()
    def features(self, videos: Tensor) -> Tensor:
        """Features (B, D) of videos (B, 3, F, H, W) in -1..1. Raises ValueError below `min_frames` frames."""
        videos = first_frames(videos, self.min_frames, self._most_frames, self.name)
        videos = videos[:, :, : videos.shape[2] // self._tubelet * self._tubelet]
        return torch.cat([self._of(part.to(self._device)).cpu() for part in videos.split(_CLIPS_AT_ONCE)])

    def _of(self, videos: Tensor) -> Tensor:
        mean, std = (torch.tensor(x, device=videos.device).view(3, 1, 1, 1) for x in (self._mean, self._std))
        shown = resized(eight_bits(videos), *self._size, antialias=True)
        frames = ((shown / 2 + 0.5 - mean) / std).transpose(1, 2)  # (B, F, 3, H, W)
        if self._network.config.model_type == "vjepa2":
            output = self._network(pixel_values_videos=frames, skip_predictor=True)
        else:
            output = self._network(pixel_values=frames)
        return output.last_hidden_state.float().mean(1)

    @property
    def _tubelet(self) -> int:
        return int(self._network.config.tubelet_size)


def _load(folder: Path, family: str) -> Any:
    from transformers import AutoConfig, AutoModel

    try:
        model_type = AutoConfig.from_pretrained(folder).model_type
        if model_type != family:
            raise ValueError(f"{folder} holds a {model_type} network, not a {family} one: pass one of these")
        with without_bars():
            return AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32).eval()
    except OSError as error:
        raise ValueError(f"{folder} cannot be read as a {family} network: {' '.join(str(error).split())}") from error


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and deviation, per colour, of the pixels in 0..1 that the network was trained on."""
    for path in (folder / name for name in _PROCESSORS):
        settings = parse_json(path.read_text("utf-8")) if path.is_file() else {}
        if {"image_mean", "image_std"} <= settings.keys():
            return settings["image_mean"], settings["image_std"]
    raise ValueError(
        f"{folder} has no preprocessor_config.json with image_mean and image_std: save the processor there"
    )
