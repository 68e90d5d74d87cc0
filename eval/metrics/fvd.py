"""FVD by the protocol of StyleGAN-V (https://arxiv.org/abs/2112.14683): I3D's logits of 16 frames at 224x224."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fewstep.eval.metrics.frechet import STATISTICS
from fewstep.eval.metrics.i3d import CLASSES, FEWEST_FRAMES, I3D, I3D_SIDE
from fewstep.eval.metrics.preprocess import eight_bits, first_frames, resized
from fewstep.eval.metrics.weights import find_file
from fewstep.teacher.files.checksums import sha256

FVD_HUB_ID, FVD_HUB_FILE = "flateon/FVD-I3D-torchscript", "i3d_torchscript.pt"
ARCHIVE_SHA256 = "bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2"  # of that file
FVD_FRAMES = 16
_CLIPS_AT_ONCE = 4
_CLOSE = 1e-4  # of the largest logit; float32 differs by a tenth of it


class FvdFeatures:
    """Comparable with published figures for 2048 clips of 16 frames or more, and the archive's weights."""

    name = "fvd"
    min_frames = FEWEST_FRAMES

    def __init__(self, weights: str | Path | None = None, device: str = "cpu") -> None:
        """`weights`: i3d_torchscript.pt, pytorch-i3d's rgb_imagenet.pt, either as safetensors; or a hub id.

        By default the archive is downloaded. Raises ValueError when the weights cannot be loaded, are not I3D's, or are
        a TorchScript archive other than the public one, for such a file can run code.
        """
        path = find_file(weights or FVD_HUB_ID, FVD_HUB_FILE)
        self.weights_sha256 = sha256(path)
        if weights is None and self.weights_sha256 != ARCHIVE_SHA256:
            raise ValueError(f"{path} is not the file that FVD is known for: delete it, and it is downloaded again")
        self._network = _load(path, self.weights_sha256).to(device)
        self._device = device

    def protocol(self) -> dict[str, Any]:
        """What figures depend on besides the clips."""
        return {
            "network": "I3D, Kinetics-400, logits",
            "weights_sha256": self.weights_sha256,
            "weights_of_stylegan_v": self.weights_sha256 == ARCHIVE_SHA256,
            "dimensions": CLASSES,
            "frames": f"the first {FVD_FRAMES}, or all where there are {FEWEST_FRAMES} to {FVD_FRAMES - 1}",
            "resize": f"whole frame to {I3D_SIDE}x{I3D_SIDE}, bilinear, align_corners false, no antialiasing",
            "value_range": "-1..1, rounded to 8 bits",
            "torch": torch.__version__,
            **STATISTICS,
        }

    @torch.no_grad()
    def features(self, videos: Tensor) -> Tensor:
        """Features (B, 400) of videos (B, 3, F, H, W) in -1..1. Raises ValueError below 10 frames."""
        videos = first_frames(videos, FEWEST_FRAMES, FVD_FRAMES, self.name)
        some = (eight_bits(part.to(self._device)) for part in videos.split(_CLIPS_AT_ONCE))
        return torch.cat([self._network(resized(part, I3D_SIDE, I3D_SIDE, antialias=False)).cpu() for part in some])


def _load(path: Path, digest: str) -> I3D:
    network = I3D().eval().requires_grad_(False)
    if _is_torchscript(path):
        if digest != ARCHIVE_SHA256:
            raise ValueError(
                f"{path} is a TorchScript archive, which can run code, and not the public one (sha256 "
                f"{ARCHIVE_SHA256[:12]}…): pass that one, or weights as safetensors"
            )
        archive = torch.jit.load(str(path), map_location="cpu").eval()
        # the archive's weights in an I3D of our own, which must then give what the archive gives
        network.load_public(archive.state_dict())
        _match(network, archive, path)
    else:
        network.load_public(_state_dict(path))
    return network


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError) as error:
        raise ValueError(f"{path} holds no plain tensors: pass i3d_torchscript.pt or safetensors") from error
    if not isinstance(state, dict) or not all(isinstance(weight, Tensor) for weight in state.values()):
        raise ValueError(f"{path} is not a state dict: pass i3d_torchscript.pt or safetensors")
    return state


@torch.no_grad()
def _match(network: I3D, archive: torch.jit.ScriptModule, path: Path) -> None:
    """Sets what a state dict does not tell, and proves that the network does what the archive does.

    On 10 frames, where sizes are odd, so that a padding of another kind would show.
    """
    video = torch.rand(1, 3, FEWEST_FRAMES, I3D_SIDE, I3D_SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    theirs = archive(video, rescale=False, resize=False, return_features=True)
    # batch norm's epsilon is in no state dict: the public archive has one of these
    for epsilon in (1e-3, 1e-5):
        network.set_epsilon(epsilon)
        if (network(video) - theirs).abs().max() <= _CLOSE * theirs.abs().max():
            return
    raise ValueError(f"fewstep's I3D does not give the logits of {path}: please report it, and leave fvd out till then")
