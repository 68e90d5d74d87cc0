"""A batch of conditions: cut, moved, joined."""

from __future__ import annotations

import pytest
import torch

from fewstep.teacher.conditions import EMBEDDINGS, Conditions, cut_padding


def batch(size: int, length: int, negative: int | None = 2) -> Conditions:
    """Embeddings are padded, pooled vectors and images are not."""
    rows = torch.arange(1.0, size + 1).view(-1, 1, 1)
    positive = {"embeddings": rows.expand(size, length, 3), "pooled": rows[:, 0].expand(size, 4)}
    unconditional = None
    if negative is not None:
        unconditional = {"embeddings": -torch.ones(size, negative, 3), "pooled": -torch.ones(size, 4)}
    return Conditions(positive, unconditional, {"picture": torch.arange(size).view(-1, 1, 1, 1)})


@pytest.mark.parametrize("index", [slice(1, 3), [1, 2], torch.tensor([1, 2]), torch.tensor([False, True, True, False])])
def test_parts_of_a_batch(index: slice | list[int] | torch.Tensor) -> None:
    part = batch(4, 5)[index]
    assert len(part) == 2
    assert part.negative is not None
    assert part.positive["embeddings"][:, 0, 0].tolist() == [2, 3]
    assert part.shared["picture"].flatten().tolist() == [1, 2]


def test_join_pads_shorter_texts_with_zeros() -> None:
    joined = Conditions.join([batch(1, 2), batch(2, 4, negative=3)])
    assert joined.positive["embeddings"].shape == (3, 4, 3) and joined.positive["pooled"].shape == (3, 4)
    assert joined.positive["embeddings"][0, :, 0].tolist() == [1, 1, 0, 0]
    assert joined.negative is not None
    assert joined.negative["embeddings"].shape == (3, 3, 3)
    assert joined.shared["picture"].flatten().tolist() == [0, 0, 1]


def test_branches_put_the_unconditional_one_first() -> None:
    both = batch(2, 4).branches(torch.tensor([True, True]))
    assert both.positive["embeddings"][:, 0, 0].tolist() == [-1, -1, 1, 2]
    assert both.positive["pooled"][:, 0].tolist() == [-1, -1, 1, 2]
    assert both.shared["picture"].flatten().tolist() == [0, 1, 0, 1]
    assert both.negative is None


def test_branches_hold_the_unconditional_one_of_guided_clips_only() -> None:
    some = batch(2, 4).branches(torch.tensor([False, True]))
    assert some.positive["embeddings"][:, 0, 0].tolist() == [-1, 1, 2]
    assert some.shared["picture"].flatten().tolist() == [1, 0, 1]


def test_dtype_moves_only_floats() -> None:
    moved = batch(2, 4).to("cpu", torch.bfloat16)
    assert moved.positive["embeddings"].dtype == torch.bfloat16
    assert moved.shared["picture"].dtype == torch.int64


@pytest.mark.parametrize(("lengths", "left"), [((7, 3), 8), ((0,), 1), ((8,), 9), ((9, 1), 9)])
def test_cut_leaves_one_zero(lengths: tuple[int, ...], left: int) -> None:
    text = torch.zeros(len(lengths), 9, 4)
    for row, length in zip(text, lengths, strict=True):
        row[:length] = 1
    shortened = cut_padding(text)
    assert shortened.shape[1] == left
    assert torch.equal(shortened, text[:, :left])


def test_zeros_within_a_text_are_no_padding() -> None:
    text = torch.zeros(1, 9, 4)
    text[0, [0, 3]] = 1
    assert cut_padding(text).shape[1] == 5


def test_equal_rows_are_of_equal_texts_and_of_all_that_is_given() -> None:
    def of(texts: torch.Tensor, image: tuple[float, ...] = (0, 0, 0)) -> Conditions:
        return Conditions({EMBEDDINGS: texts}, {EMBEDDINGS: -texts}, {"image": torch.tensor(image)[:, None]})

    short, long = torch.ones(3, 2, 4), torch.ones(3, 5, 4)
    long[0, 2:] = 0  # the same text, padded
    assert of(short).equal_rows(of(long)).tolist() == [True, False, False]
    assert of(short).equal_rows(of(short, (0, 0, 1))).tolist() == [True, True, False]


def test_refusals() -> None:
    with pytest.raises(ValueError, match="unconditional branch"):
        batch(2, 4, negative=None).branches(torch.tensor([True, True]))
    with pytest.raises(ValueError, match="join like with like"):
        Conditions.join([batch(1, 2), batch(1, 2, negative=None)])
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        Conditions({"embeddings": torch.zeros(2, 3, 4)}, {"embeddings": torch.zeros(1, 3, 4)})
    with pytest.raises(ValueError, match="make both with the same names"):
        Conditions({"embeddings": torch.zeros(1, 3, 4)}, {"pooled": torch.zeros(1, 4)})
    with pytest.raises(ValueError, match="join like with like"):
        Conditions.join(
            [batch(1, 2), Conditions({"embeddings": torch.zeros(1, 3, 4)}, {"embeddings": torch.zeros(1, 3, 4)})]
        )


def test_a_row_is_cut_with_its_mask_and_nothing_else_is() -> None:
    text, mask = torch.zeros(2, 9, 4), torch.zeros(2, 9)
    text[:, :2], mask[:, :5] = 1, 1
    padded = frozenset({"embeddings", "mask"})
    whole = Conditions(
        {"embeddings": text, "mask": mask, "pooled": torch.zeros(2, 9)}, shared={"picture": torch.zeros(2, 9, 4)},
        padded=padded,
    )  # fmt: skip
    row = whole.row(1)
    assert {name: tuple(x.shape) for name, x in row.positive.items()} == {
        "embeddings": (1, 6, 4),
        "mask": (1, 6),
        "pooled": (1, 9),
    }
    assert row.shared["picture"].shape == (1, 9, 4)
    longer = whole[:1]
    assert Conditions.join([row, longer]).positive["mask"].shape == (2, 9)
