"""A discriminator of clips over space and time."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import spectral_norm


class ClipDiscriminator(nn.Module):
    """Convolutions over space and time, each of bounded slope (spectral normalisation, arXiv 1802.05957)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (3, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for level, (before, after) in enumerate(pairwise(widths)):
            stride = (1 if level == 0 else 2, 2, 2)
            layers += [spectral_norm(nn.Conv3d(before, after, (3, 4, 4), stride, padding=1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv3d(widths[-1], 1, (1, 3, 3), padding=(0, 1, 1))))

    def forward(self, video: Tensor) -> Tensor:
        """Logits (B, places) of clips (B, 3, F, H, W) in -1..1."""
        return self.layers(video).flatten(1)

    def frozen(self, video: Tensor) -> Tensor:
        """The same, with gradients to the clips alone."""
        weights = {name: weight.detach() for name, weight in self.named_parameters()}
        return functional_call(self, weights, (video,))
