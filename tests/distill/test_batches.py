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
