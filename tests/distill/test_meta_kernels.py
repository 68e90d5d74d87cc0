"""Results that are made from memory are those that torch makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from fewstep.distill import meta_kernels
from fewstep.distill.meta_kernels import run_on_meta


class Remembering(TorchDispatchMode):
    """Every operator by `run_on_meta`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run_on_meta(func, args, kwargs or {})


@pytest.fixture(autouse=True)
def no_calls_before() -> Iterator[None]:
    with patch.object(meta_kernels, "_known", {}):
        yield


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def facts(made: Any) -> list[tuple[Any, ...]]:
    """What a tensor on meta has: all but numbers."""
    return [
        (x.shape, x.stride(), x.dtype, x.storage_offset(), x.untyped_storage().nbytes(), x.requires_grad)
        for x in tree_iter(made)
    ]


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: x + y,
        lambda x, y: x.t() * 2,
        lambda x, y: (x + 1, x + 1.0, x.long() + 1, x.long() + True, x.long() + 1.0),
        lambda x, y: (x.to(torch.bfloat16), x.to(torch.float64), x > y, x.sum(), x.sum(0, keepdim=True)),
        lambda x, y: (x.contiguous(), x.t().contiguous(), x.t().clone(memory_format=torch.preserve_format)),
        lambda x, y: (x @ y.t(), torch.addmm(x, x, x), torch.cat([x, x[:2], y]), torch.stack([x, x])),
        lambda x, y: torch.nn.functional.layer_norm(x, [4]),
        lambda x, y: torch.nn.functional.conv2d(x[None, None], x[None, None, :2, :2]),
        lambda x, y: (x.max(0), x.topk(2), x.split(2), x.view(2, 8), x[:, 1:], x[1:].view(-1), x.expand(3, 4, 4)),
        lambda x, y: (torch.ones_like(x), torch.rand_like(x), x.new_zeros(3), x.repeat(2, 2), torch.where(x > 0, x, y)),
        lambda x, y: (torch.view_as_complex(x.view(4, 2, 2)).conj() * 2j, torch.view_as_complex(x.view(4, 2, 2)) * 2j),
    ],
)  # fmt: skip
def test_a_call_made_again_is_as_torch_makes_it(call: Callable[[Tensor, Tensor], Any]) -> None:
    x, y = on_meta(4, 4), on_meta(1, 4)
    expected = facts(call(x, y))
    with Remembering():
        first, again = call(x, y), call(x, y)
    assert facts(first) == facts(again) == expected


def test_what_was_made_before_is_not_made_by_torch_again() -> None:
    def numbered(x: Tensor) -> Tensor:
        return (x.exp() * 2).add_(1)

    x, other = on_meta(3, 5), on_meta(5, 3).t()
    with Remembering():
        numbered(x)
        assert len(meta_kernels._known) == 3
        with patch.object(meta_kernels, "_made_of", side_effect=AssertionError("torch was asked")):
            numbered(x)
        numbered(other)
    assert len(meta_kernels._known) == 6  # other strides are another call


def test_storages_are_shared_as_torch_shares_them() -> None:
    x = on_meta(4, 4)
    with Remembering():
        for _ in range(2):
            assert x.add_(1) is x and x.mul_(2.0).copy_(on_meta(4, 4)) is x
            view, new = x.view(16), x + 1
            assert view.untyped_storage()._cdata == x.untyped_storage()._cdata != new.untyped_storage()._cdata
            one, other = x.max(0)
            assert one.untyped_storage()._cdata != other.untyped_storage()._cdata
        for _ in range(2):
            grown = on_meta(2)
            assert grown.resize_(8).shape == (8,) and grown.unsqueeze_(0).shape == (1, 8)


def test_gradients_are_as_torch_has_them() -> None:
    def gradient() -> Tensor:
        weight = on_meta(4, 4).requires_grad_()
        (torch.nn.functional.silu(on_meta(2, 4) @ weight).mean() * 3).backward()
        assert weight.grad is not None
        return weight.grad

    expected = facts(gradient())
    with Remembering():
        assert facts(gradient()) == facts(gradient()) == expected


def test_a_tensor_with_numbers_is_computed() -> None:
    with Remembering():
        for value in (1.0, 2.0):
            assert float(torch.tensor(value) * 2) == 2 * value


def test_memory_of_calls_is_bounded() -> None:
    with patch.object(meta_kernels, "_MOST_CALLS", 3), Remembering():
        for length in range(1, 10):
            assert (on_meta(length) + 1).shape == (length,)
            assert len(meta_kernels._known) <= 3
