"""How LTX-2's pipelines guide: by the prompt, by blocks without attention, and by streams apart from each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GuidanceTerms:
    """The pipeline's own weights for one stream, next to that of the prompt."""

    stg: float = 1.0  # away from what blocks make of it whose self-attention is skipped (arXiv 2411.18664)
    modality: float = 3.0  # away from what is made of it without the other stream
    rescale: float = 0.7  # of the way back to the spread that x0 has unguided (arXiv 2305.08891, 3.4)

    def guided(self, weight: Tensor | float, c: Tensor, u: Tensor, perturbed: Tensor, isolated: Tensor) -> Tensor:
        """x0 (B, L, C) of one stream, guided; weight: the prompt's, a number or (B, 1, 1).

        c: given the prompt; u: the negative one; perturbed: with such blocks; isolated: without the other stream.
        """
        guided_x0 = c + (weight - 1) * (c - u) + self.stg * (c - perturbed) + (self.modality - 1) * (c - isolated)
        spread, wanted = (x.std(dim=(1, 2), keepdim=True) for x in (guided_x0, c))
        return self.rescale * guided_x0 * (wanted / spread) + (1 - self.rescale) * guided_x0


VIDEO, SOUND = GuidanceTerms(), GuidanceTerms()
SOUND_WEIGHT = 7.0  # of the prompt, whatever the video's is


def stg_block(num_layers: int, newer: bool) -> int | None:
    """The block without self-attention that diffusers names: 28 of LTX-2.3, 29 of LTX-2; None of smaller networks."""
    block = 28 if newer else 29
    return block if block < num_layers else None
