"""The denoiser starts by looking at its neighbours, and its latents come back from disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fewstep.teacher.shapes.autoencoder import clips
from fewstep.teacher.shapes.captions import named
from fewstep.teacher.shapes.denoiser import DenoiserRecipe, make_transformer
from fewstep.teacher.shapes.latents import training_latents
from fewstep.teacher.shapes.linear_code import LinearCode
from fewstep.teacher.shapes.world import ATTRIBUTES


def attention_of(block: object, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Self-attention (heads, 5, 4, 4, 5, 4, 4) of a block on random tokens, averaged over 20 draws."""
    attn = block.attn1  # type: ignore[attr-defined]
    weights, cos, sin = [], rotary[0][..., 0::2], rotary[1][..., 1::2]
    for seed in range(20):
        tokens = torch.randn(1, 80, 256, generator=torch.Generator().manual_seed(seed))
        turned = []
        for project, norm in ((attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k)):
            first, second = norm(project(tokens)).view(1, 80, 2, 64, 2).unbind(-1)
            turned.append(torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(3))
        logits = torch.einsum("bqhd,bkhd->hqk", *turned) / 128**0.5
        weights.append(logits.softmax(-1).view(2, 5, 4, 4, 5, 4, 4))
    return torch.stack(weights).mean(0)


@torch.no_grad()
def test_each_head_starts_at_its_own_neighbour() -> None:
    torch.manual_seed(0)
    model = make_transformer(DenoiserRecipe(), channels=16)
    rotary = model.rope(torch.zeros(1, 16, 5, 8, 8))
    right, left = attention_of(model.blocks[0], rotary)[:, 2, 1, 2].sum(dim=(1, 2))  # over columns, from column 2
    assert int(right.argmax()) == 3 and int(left.argmax()) == 1
    later, earlier = attention_of(model.blocks[2], rotary)[:, 2, 1, 1].sum(dim=(2, 3))  # over frames, from frame 2
    assert later[3:].sum() > 1.5 * later[:2].sum() and earlier[:2].sum() > 1.5 * earlier[3:].sum()


def test_latents_are_rendered_once_and_follow_from_the_seed(tmp_path: Path) -> None:
    code = LinearCode.fit([clips("train", 0, range(4))], channels=4)
    first = training_latents(code, 6, seed=3, path=tmp_path / "latents.npy")
    written = (tmp_path / "latents.npy").stat().st_mtime_ns
    again = training_latents(code, 6, seed=3, path=tmp_path / "latents.npy")
    assert (tmp_path / "latents.npy").stat().st_mtime_ns == written
    assert np.array_equal(first.codes, again.codes) and first.scenes == again.scenes
    assert torch.allclose(
        torch.from_numpy(first.codes[:2]).float(), code.encode(clips("train", 3, range(2))), atol=1e-2
    )
    latents, captions, labels = first.batch(np.random.default_rng(0), 5, mention_rate=1.0)
    assert latents.shape == (5, 4, 5, 8, 8) and labels.shape == (5, len(ATTRIBUTES))
    for caption, label in zip(captions, labels, strict=True):
        assert named(caption) == {n: v[label[i]] for i, (n, v) in enumerate(ATTRIBUTES.items())}
    with pytest.raises(ValueError, match="holds 6 clips and the recipe asks for 7"):
        training_latents(code, 7, seed=3, path=tmp_path / "latents.npy")
