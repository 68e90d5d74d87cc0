"""Every epoch shows every row once, in an order that follows from seed and number alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fewstep.teacher.base import Teacher
from fewstep.teacher.dataset.plan import plan_dataset, unconditional_row
from fewstep.teacher.dataset.shuffled_rows import ShuffledRows
from fewstep.teacher.dataset.sources import text_tensors
from fewstep.teacher.dataset.writing import DatasetRow, write_dataset

COUNT = 23


class Captioned:
    """Rows that their captions tell apart."""

    def __init__(self, teacher: Teacher, captions: list[str]) -> None:
        self._captions = captions
        self._text = text_tensors(teacher.conditions([""]), 0)

    def rows(self, items: range) -> Iterator[DatasetRow]:
        for i in items:
            yield DatasetRow(str(i), self._captions[i], {"latents": torch.zeros(1, 1, 1, 1), **self._text})


@pytest.fixture(scope="module")
def folder(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rows") / "dataset"
    prompts = [f"prompt {i}" for i in range(COUNT)]
    items = [[p] for p in prompts]
    shape = (1, 1, 1, 1)
    plan = plan_dataset("rollouts", tiny_teacher, "tiny", items, latent_shape=shape, source="none", rows_per_shard=4)
    write_dataset(out, plan, unconditional_row(tiny_teacher), Captioned(tiny_teacher, prompts), lambda: None)
    return out


def captions(folder: Path, teacher: Teacher, numbers: list[int], seed: int = 0, window: int = 8) -> list[str]:
    rows = ShuffledRows(folder, teacher_sha256=teacher.sha256(), seed=seed, window=window)
    return [rows[n]["caption"] for n in numbers]


def test_every_epoch_shows_every_row_once_in_another_order(folder: Path, tiny_teacher: Teacher) -> None:
    shown = captions(folder, tiny_teacher, list(range(2 * COUNT)))
    first, second = shown[:COUNT], shown[COUNT:]
    assert sorted(first) == sorted(second) == sorted(f"prompt {i}" for i in range(COUNT))
    assert first != second != [f"prompt {i}" for i in range(COUNT)]


def test_a_row_can_be_asked_for_directly(folder: Path, tiny_teacher: Teacher) -> None:
    in_order = captions(folder, tiny_teacher, list(range(60)))
    jumping = [59, 3, 22, 23, 40, 0]
    assert captions(folder, tiny_teacher, jumping) == [in_order[n] for n in jumping]
    assert captions(folder, tiny_teacher, list(range(60)), seed=1) != in_order


def test_another_teacher_s_rows_are_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="was made with the teacher tiny"):
        ShuffledRows(folder, teacher_sha256="0" * 64, seed=0)
