"""Batches: what is drawn follows from seed, stage, position and process alone."""

from __future__ import annotations

from pathlib import Path

import torch

from fewstep.distill.batches import Batches
from fewstep.teacher.base import Teacher


def test_a_position_gives_the_same_clips_and_noise_again(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    first, second = (Batches(tiny_dataset, tiny_teacher, seed=1, stage=2).batch(5, 3, 0.25) for _ in range(2))
    assert first.x0.shape == (3, 16, 3, 2, 2) and first.x0.dtype == torch.float32 and first.progress == 0.25
    assert torch.equal(first.x0, second.x0) and torch.equal(first.noise(), second.noise())
    assert torch.equal(first.conditions.positive["embeddings"], second.conditions.positive["embeddings"])
    assert first.conditions.negative is not None and len(first.conditions) == 3


def test_stages_and_positions_differ(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    places = [(0, 0), (0, 1), (1, 0)]
    noises = [Batches(tiny_dataset, tiny_teacher, seed=0, stage=s).batch(p, 2, 0.0).noise() for s, p in places]
    assert not torch.equal(noises[0], noises[1]) and not torch.equal(noises[0], noises[2])


def test_processes_share_an_epoch_out(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    ranks = [Batches(tiny_dataset, tiny_teacher, seed=0, stage=0, rank=rank, world_size=2) for rank in range(2)]
    batches = [b.batch(position, 2, 0.0) for position in range(4) for b in ranks]  # 16 clips: one epoch
    seen = torch.cat([batch.x0 for batch in batches])
    assert len(seen.flatten(1).unique(dim=0)) == 16
    assert not torch.equal(batches[0].noise(), batches[1].noise())


def test_a_clip_has_the_same_draws_whoever_gets_it(tiny_teacher: Teacher, tiny_dataset: Path) -> None:
    """However the clips of a step are split over processes and micro-batches."""
    whole = Batches(tiny_dataset, tiny_teacher, seed=0, stage=0)
    ranks = [Batches(tiny_dataset, tiny_teacher, seed=0, stage=0, rank=rank, world_size=2) for rank in range(2)]
    expected, splits = whole.batch(3, 8, 0.0), [
        [of.batch(3, 4, 0.0) for of in ranks],
        [whole.batch(position, 4, 0.0) for position in (6, 7)],
        [of.batch(position, 2, 0.0) for position in (6, 7) for of in ranks],
    ]  # fmt: skip
    noise = expected.noise()
    for parts in splits:
        assert torch.equal(torch.cat([part.x0 for part in parts]), expected.x0)
        assert torch.equal(torch.cat([part.noise() for part in parts]), noise)
    shared = [torch.randint(1000, (1,), generator=batch.draws.shared) for batch in (expected, *splits[0])]
    assert len(set(map(int, shared))) == 1
    others = [part.others_conditions().positive["embeddings"] for part in splits[0]]
    wanted = expected.conditions.positive["embeddings"].roll(1, 0)
    assert torch.equal(torch.cat([other[:, :2] for other in others]), wanted[:, :2])
