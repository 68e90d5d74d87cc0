"""LPIPS, the perceptual distance of two images (arXiv 1801.03924), version 0.1 on AlexNet.

Uses torchmetrics' linear heads on an AlexNet that the user provides, else the `lpips` package, which needs
torchvision: one that was built for another torch breaks much else.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fewstep.eval.metrics.clips import Clips, Figures, Metric, figure, mean_interval, teachers

MIN_SIDE = 31  # pixels; below it nothing is left after AlexNet's poolings
_TAPS = (1, 4, 7, 9, 11)  # of AlexNet's features: the ReLUs
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_FRAMES_AT_ONCE = 16


class Lpips(nn.Module):
    """Two batches of images (B, 3, H, W) in -1..1 -> their distances (B,)."""

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: dict[str, Tensor]) -> None:
        """`trunk` is the state dict of torchvision's AlexNet. Raises ValueError when it is not."""
        super().__init__()
        self.features = _alexnet()
        # torchvision's file holds the classifier as well, of which LPIPS uses nothing
        own = {name.removeprefix("features."): w for name, w in trunk.items() if not name.startswith("classifier.")}
        try:
            self.features.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(
                "the weights for lpips are not those of torchvision's AlexNet: pass alexnet-owt-7be5be79.pth, "
                "or the same as safetensors"
            ) from error
        self.heads = [head.flatten() for head in _heads().values()]
        self.register_buffer("shift", torch.tensor(_SHIFT).view(3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(3, 1, 1))
        self.requires_grad_(False).eval()

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        distance = first.new_zeros(len(first))
        a, b = ((x - self.shift) / self.scale for x in (first, second))
        heads = iter(self.heads)
        # squared distance of unit features, weighted by channel, mean over space: arXiv 1801.03924, Eq. 1
        for i, layer in enumerate(self.features):
            a, b = layer(a), layer(b)
            if i in _TAPS:
                squares = (_unit(a) - _unit(b)).square()
                distance = distance + torch.einsum("bchw,c->bhw", squares, next(heads).to(a.device)).mean((1, 2))
        return distance


class VideoLpips:
    """LPIPS of clips: the mean over their frames."""

    def __init__(self, network: nn.Module, device: torch.device | str = "cpu") -> None:
        """`network` takes two batches of images (B, 3, H, W) in -1..1 and gives B numbers in any shape."""
        self._network = network.to(device)

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Videos (B, 3, F, H, W) in -1..1, twice -> (B,)."""
        a, b = (video.transpose(1, 2).flatten(0, 1) for video in (first, second))
        pairs = zip(a.split(_FRAMES_AT_ONCE), b.split(_FRAMES_AT_ONCE), strict=True)
        with torch.no_grad():
            distances = torch.cat([self._network(*pair).flatten() for pair in pairs])
        return distances.view(len(first), -1).mean(1)

    def protocol(self) -> dict[str, Any]:
        """The same for both ways to the same weights."""
        trunk = [p for p in self._network.parameters() if p.ndim == 4 and p.shape[0] > 1]
        digest = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in trunk))
        return {"network": "alex", "version": "0.1", "trunk_sha256": digest.hexdigest(), "frames": "all"}


class LpipsGap(Metric):
    """LPIPS between a student's clip and the teacher's of the same noise; the mean over clips."""

    name = "lpips"
    paired = "videos"

    def __init__(self, distance: VideoLpips, **of_torchmetrics: Any) -> None:
        super().__init__(**of_torchmetrics)
        self._distance = distance

    def protocol(self) -> dict[str, Any]:
        return self._distance.protocol()

    def measure(self, clips: Clips) -> Tensor:
        return self._distance(clips.videos, teachers(self.name, clips).videos)

    def figures(self, own: Tensor, teacher: Tensor | None) -> Figures:
        return {self.name: figure(mean_interval(own), len(own), better="lower")}


def open_lpips(trunk: Path | None, device: torch.device | str = "cpu") -> VideoLpips:
    """LPIPS on a trunk (.safetensors, or .pth of tensors only), or by the `lpips` package where there is none.

    Raises ValueError when the weights cannot be loaded: there is no fallback.
    """
    return VideoLpips(_package() if trunk is None else Lpips(_read_trunk(trunk)), device)


class LPIPS(LpipsGap):
    """LPIPS to the teacher's clips, with weights that it loads itself."""

    def __init__(
        self, trunk: str | Path | None = None, device: torch.device | str = "cpu", **of_torchmetrics: Any
    ) -> None:
        """`trunk` and errors as in `open_lpips`."""
        super().__init__(open_lpips(None if trunk is None else Path(trunk), device), **of_torchmetrics)


def _package() -> nn.Module:
    try:
        from lpips import LPIPS
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            "lpips needs AlexNet's weights: pass --lpips-trunk alexnet-owt-7be5be79.pth (of torchvision's models), or "
            "`pip install 'fewstep[lpips]'` next to a torchvision of the same build as torch"
        ) from error
    try:
        network: nn.Module = LPIPS(net="alex", verbose=False).eval().requires_grad_(False)
    except OSError as error:
        raise ValueError(f"the lpips package could not download AlexNet ({error}): pass --lpips-trunk") from error
    return network


def _read_trunk(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"there is no file {path} for --lpips-trunk: pass torchvision's alexnet-owt-7be5be79.pth")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        return dict(state.items())
    except Exception as error:  # torch and safetensors raise a dozen kinds for files that are none
        raise ValueError(f"{path} holds no weights that can be read safely: pass safetensors or a .pth") from error


def _alexnet() -> nn.Sequential:
    """The convolutions of torchvision's AlexNet."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    )  # fmt: skip


def _heads() -> dict[str, Tensor]:
    """lpips' linear heads of version 0.1, which torchmetrics holds byte for byte."""
    path = files("torchmetrics") / "functional" / "image" / "lpips_models" / "alex.pth"
    with path.open("rb") as file:
        return dict(torch.load(file, "cpu", weights_only=True))


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
