"""A batch of conditions: cut, moved, joined."""

from __future__ import annotations

import pytest
import torch

from fewstep.teacher.conditions import Conditions, cut_padding


def batch(size: int, length: int, negative: int | None = 2) -> Conditions:
    positive = torch.arange(1.0, size + 1).view(-1, 1, 1).expand(size, length, 3)
    unconditional = None if negative is None else -torch.ones(size, negative, 3)
    return Conditions(positive, unconditional, {"fps": torch.arange(size)})


@pytest.mark.parametrize("index", [slice(1, 3), [1, 2], torch.tensor([1, 2]), torch.tensor([False, True, True, False])])
def test_parts_of_a_batch(index: slice | list[int] | torch.Tensor) -> None:
    part = batch(4, 5)[index]
    assert len(part) == 2
    assert part.negative is not None
    assert part.positive[:, 0, 0].tolist() == [2, 3]
    assert part.extras["fps"].tolist() == [1, 2]


def test_join_pads_shorter_texts_with_zeros() -> None:
    joined = Conditions.join([batch(1, 2), batch(2, 4, negative=3)])
    assert joined.positive.shape == (3, 4, 3)
    assert joined.positive[0, :, 0].tolist() == [1, 1, 0, 0]
    assert joined.negative is not None
    assert joined.negative.shape == (3, 3, 3)
    assert joined.extras["fps"].tolist() == [0, 0, 1]


def test_branches_put_the_unconditional_one_first() -> None:
    both = batch(2, 4).branches(torch.tensor([True, True]))
    assert both.positive[:, 0, 0].tolist() == [-1, -1, 1, 2]
    assert both.extras["fps"].tolist() == [0, 1, 0, 1]
    assert both.negative is None


def test_branches_hold_the_unconditional_one_of_guided_clips_only() -> None:
    some = batch(2, 4).branches(torch.tensor([False, True]))
    assert some.positive[:, 0, 0].tolist() == [-1, 1, 2]
    assert some.extras["fps"].tolist() == [1, 0, 1]


def test_dtype_moves_only_floats() -> None:
    moved = batch(2, 4).to("cpu", torch.bfloat16)
    assert moved.positive.dtype == torch.bfloat16
    assert moved.extras["fps"].dtype == torch.int64


@pytest.mark.parametrize(("lengths", "left"), [((7, 3), 8), ((0,), 1), ((8,), 9), ((9, 1), 9)])
def test_cut_leaves_one_zero(lengths: tuple[int, ...], left: int) -> None:
    text = torch.zeros(len(lengths), 9, 4)
    for row, length in zip(text, lengths, strict=True):
        row[:length] = 1
    found = cut_padding(text)
    assert found.shape[1] == left
    assert torch.equal(found, text[:, :left])


def test_zeros_within_a_text_are_no_padding() -> None:
    text = torch.zeros(1, 9, 4)
    text[0, [0, 3]] = 1
    assert cut_padding(text).shape[1] == 5


def test_refusals() -> None:
    with pytest.raises(ValueError, match="unconditional branch"):
        batch(2, 4, negative=None).branches(torch.tensor([True, True]))
    with pytest.raises(ValueError, match="join like with like"):
        Conditions.join([batch(1, 2), batch(1, 2, negative=None)])
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        Conditions(torch.zeros(2, 3, 4), torch.zeros(1, 3, 4))
