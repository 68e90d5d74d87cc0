"""Counting the padding is exactly attending to it."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import cut_padding
from fewstep.teacher.families import wan_attention
from fewstep.teacher.families.wan_attention import WAN_TEXT_LENGTH, count_padding


def texts(*lengths: int) -> Tensor:
    """Random embeddings of these lengths, zero-padded to WanPipeline's 512."""
    padded = torch.zeros(len(lengths), WAN_TEXT_LENGTH, 128)
    for row, length in zip(padded, lengths, strict=True):
        row[:length] = torch.randn(length, 128, generator=torch.Generator().manual_seed(length))
    return padded


@pytest.fixture
def networks(tiny_teacher: Teacher) -> tuple[Any, Any]:
    counting = copy.deepcopy(tiny_teacher.network_at(1.0))
    count_padding(counting)
    stock: Any = type(counting).from_config(counting.config)  # type: ignore[attr-defined]
    stock.load_state_dict(counting.state_dict())
    return stock.eval(), counting


@pytest.mark.parametrize("lengths", [(7, 3), (1,), (511, 4), (512, 9), (0, 2)])
def test_parity_with_the_padded_transformer(networks: tuple[Any, Any], lengths: tuple[int, ...]) -> None:
    stock, counting = networks
    text, z = texts(*lengths), torch.randn(len(lengths), 16, 3, 4, 4)
    timestep = torch.full((len(lengths),), 700.0)
    with torch.no_grad():
        expected = stock(z, timestep, text, return_dict=False)[0]
        actual = counting(z, timestep, cut_padding(text), return_dict=False)[0]
        whole = counting(z, timestep, text, return_dict=False)[0]
    scale = float(expected.abs().max())
    assert float((actual - expected).abs().max()) < 1e-5 * scale
    assert torch.equal(whole, expected)


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_precision_weighs_the_padding_as_much(networks: tuple[Any, Any], precision: torch.dtype) -> None:
    """log(492), of a text of 20 tokens, is 6.1875 in bfloat16: 1.1 % too little."""
    for count in range(1, WAN_TEXT_LENGTH + 1):
        logarithms = wan_attention._logarithms(count, precision)
        assert torch.tensor(logarithms, dtype=precision).tolist() == list(logarithms) and len(logarithms) <= 5
        assert sum(map(math.exp, logarithms)) == pytest.approx(count, rel=1e-5)
    stock, counting = (network.to(precision) for network in networks)
    text, z = texts(20).to(precision), torch.randn(1, 16, 3, 4, 4).to(precision)
    with torch.no_grad():
        expected, actual = (
            network(z, torch.tensor([700.0]), seen, return_dict=False)[0].float()
            for network, seen in ((stock, text), (counting, cut_padding(text)))
        )
    assert float((actual - expected).norm() / expected.norm()) < 4 * torch.finfo(precision).eps


def test_text_and_padding_matter(networks: tuple[Any, Any]) -> None:
    """Otherwise the parity above would be empty."""
    stock, counting = networks
    z, timestep = torch.randn(1, 16, 3, 4, 4), torch.tensor([700.0])
    with torch.no_grad():
        seven, three = (counting(z, timestep, cut_padding(texts(n)), return_dict=False)[0] for n in (7, 3))
        uncounted = stock(z, timestep, cut_padding(texts(7)), return_dict=False)[0]
    assert float((seven - three).abs().max()) > 1e-2
    assert float((seven - uncounted).abs().max()) > 1e-2
