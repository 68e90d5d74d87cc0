"""I3D, the Inception network with 3D convolutions (https://arxiv.org/abs/1705.07750), as FVD uses it: its logits.

Parts are named as in the archive that StyleGAN-V takes, `i3d_torchscript.pt`, a scripted descendant of hassony2's
kinetics_i3d_pytorch. So is the padding: that of TensorFlow's SAME for even sizes, whatever the size; at 16 frames of
224x224 both are the same. What of this is true of that file, which is not part of the tests, is proven when it is
loaded: `fewstep.eval.metrics.fvd` then holds this network against it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, max_pool3d, pad, relu

CLASSES = 400
I3D_SIDE = 224
FEWEST_FRAMES = 10  # with fewer nothing is left for the last pooling

Size3d = tuple[int, int, int]  # frames, height, width

_MIXED = {  # channels: into a block; of its six convolutions
    "mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
_PIERGIAJ = {  # how pytorch-i3d calls the parts, in lower case
    ".bn.": ".batch3d.",
    ".b0.": ".branch_0.",
    ".b1a.": ".branch_1.0.",
    ".b1b.": ".branch_1.1.",
    ".b2a.": ".branch_2.0.",
    ".b2b.": ".branch_2.1.",
    ".b3b.": ".branch_3.1.",
    "logits.": "conv3d_0c_1x1.",
}


class I3D(nn.Module):
    """Videos (B, 3, F, 224, 224) in -1..1, F at least 10 -> logits (B, 400), their mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d_1a_7x7 = _Unit(3, 64, 7, stride=2)
        self.conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.conv3d_2c_3x3 = _Unit(64, 192, 3)
        for name, (inputs, channels) in _MIXED.items():
            self.add_module(name, _Mixed(inputs, channels))
        self.conv3d_0c_1x1 = _Logits()

    def forward(self, videos: Tensor) -> Tensor:
        x = _max_pool(self.conv3d_1a_7x7(videos), (1, 3, 3), (1, 2, 2))
        x = _max_pool(self.conv3d_2c_3x3(self.conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in _MIXED:
            if name == "mixed_4b":
                x = _max_pool(x, (3, 3, 3), (2, 2, 2))
            elif name == "mixed_5b":
                x = _max_pool(x, (2, 2, 2), (2, 2, 2))
            x = self.get_submodule(name)(x)
        return self.conv3d_0c_1x1(avg_pool3d(x, (2, 7, 7), stride=1)).mean(dim=(2, 3, 4))

    def load_public(self, state: Mapping[str, Tensor]) -> None:
        """Takes the state dict of `i3d_torchscript.pt`, or of pytorch-i3d's `rgb_imagenet.pt`.

        Raises ValueError when it is neither.
        """
        own = {_own_name(name): weight for name, weight in state.items() if not name.endswith("num_batches_tracked")}
        try:
            missing, unknown = self.load_state_dict(own, strict=False)
        except RuntimeError as error:
            raise ValueError("these weights are for an I3D of another size: pass those of Kinetics-400") from error
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or unknown:
            first = f"{missing[0]} is missing" if missing else f"{unknown[0]} is not expected"
            raise ValueError(f"these are no weights of I3D ({first}): pass i3d_torchscript.pt or rgb_imagenet.pt")

    def set_epsilon(self, epsilon: float) -> None:
        """Of all batch norms; 1e-3 by default, as in the original network."""
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eps = epsilon


class _Unit(nn.Module):
    """Convolution, batch norm, ReLU; as many outputs as inputs are divided by the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.batch3d = nn.BatchNorm3d(outputs, eps=1e-3)
        self._padding = _same((kernel,) * 3, (stride,) * 3)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.batch3d(self.conv3d(pad(x, self._padding))))


class _Mixed(nn.Module):
    """Four branches next to each other."""

    def __init__(self, inputs: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        c0, c1a, c1b, c2a, c2b, c3 = channels
        self.branch_0 = _Unit(inputs, c0, 1)
        self.branch_1 = nn.Sequential(_Unit(inputs, c1a, 1), _Unit(c1a, c1b, 3))
        self.branch_2 = nn.Sequential(_Unit(inputs, c2a, 1), _Unit(c2a, c2b, 3))
        self.branch_3 = nn.Sequential(_Pool(), _Unit(inputs, c3, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1)


class _Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _max_pool(x, (3, 3, 3), (1, 1, 1))


class _Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3d(x)


def _max_pool(x: Tensor, kernel: Size3d, stride: Size3d) -> Tensor:
    # zeros are as good as nothing here: all that is pooled went through a ReLU
    return max_pool3d(pad(x, _same(kernel, stride)), kernel, stride, ceil_mode=True)


def _same(kernel: Size3d, stride: Size3d) -> list[int]:
    """Padding before and after, of the last dimension first."""
    totals = [max(k - s, 0) for k, s in zip(kernel, stride, strict=True)]
    return [side for total in reversed(totals) for side in (total // 2, total - total // 2)]


def _own_name(name: str) -> str:
    name = name.lower()
    for theirs, own in _PIERGIAJ.items():
        name = name.replace(theirs, own)
    return name
