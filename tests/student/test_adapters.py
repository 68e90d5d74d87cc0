"""Adapters on shared weights: no effect at first, none on the network they are not on, and the same again from disk."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fewstep.student.adapters import (
    ADAPTER_FILE,
    adapter_parameters,
    add_adapter,
    check_adapter,
    load_adapter,
    lora_targets,
    merge_adapters,
    save_adapter,
    shared_copy,
)
from fewstep.student.denoiser import single_denoiser
from fewstep.teacher.base import Teacher
from fewstep.teacher.outline import outline_teacher


def ask(teacher: Teacher, network: nn.Module) -> Tensor:
    z = teacher.noise([0, 1], teacher.latent_shape(9, 16, 16))
    with torch.no_grad():
        return teacher.denoise(z, 0.8, teacher.conditions(["a red ring", "a cross"]), network=network)


def adapted(teacher: Teacher, filled: bool = True) -> nn.Module:
    network = shared_copy(single_denoiser(teacher))
    add_adapter(network, "student", rank=4, alpha=4)
    if filled:
        torch.manual_seed(0)
        for parameter in adapter_parameters(network, "student").values():
            nn.init.normal_(parameter, std=0.05)
    return network


def test_a_fresh_adapter_changes_nothing(tiny_teacher: Teacher) -> None:
    base = single_denoiser(tiny_teacher)
    assert torch.equal(ask(tiny_teacher, adapted(tiny_teacher, filled=False)), ask(tiny_teacher, base))


def test_an_adapter_leaves_the_network_it_shares_weights_with_alone(tiny_teacher: Teacher) -> None:
    base = single_denoiser(tiny_teacher)
    before = ask(tiny_teacher, base)
    network = adapted(tiny_teacher)
    assert torch.equal(ask(tiny_teacher, base), before)
    assert not torch.allclose(ask(tiny_teacher, network), before)
    storages = {p.data_ptr() for p in base.parameters()}
    assert storages <= {p.data_ptr() for p in network.parameters()}
    only = {name for name, p in network.named_parameters() if p.requires_grad}
    assert only == set(adapter_parameters(network, "student"))


def test_an_adapter_survives_the_disk(tiny_teacher: Teacher, tmp_path: Path) -> None:
    network, again = adapted(tiny_teacher), shared_copy(single_denoiser(tiny_teacher))
    save_adapter(network, "student", tmp_path)
    load_adapter(again, "other", tmp_path)
    assert torch.equal(ask(tiny_teacher, again), ask(tiny_teacher, network))


def test_merging_gives_a_plain_network(tiny_teacher: Teacher) -> None:
    network = adapted(tiny_teacher)
    merged = deepcopy(network)
    merge_adapters(merged)
    assert set(merged.state_dict()) == set(single_denoiser(tiny_teacher).state_dict())
    assert torch.allclose(ask(tiny_teacher, merged), ask(tiny_teacher, network), rtol=1e-4, atol=1e-4)


def test_targets_are_in_the_blocks_only(tiny_teacher: Teacher) -> None:
    targets = lora_targets(single_denoiser(tiny_teacher))
    assert "blocks.0.attn1.to_q" in targets and "blocks.1.ffn.net.2" in targets
    assert all(name.startswith("blocks.") for name in targets)
    with pytest.raises(ValueError, match=r"student\.lora\.targets"):
        lora_targets(nn.Sequential(nn.Linear(2, 2)))


def test_broken_and_foreign_adapters_are_refused(tiny_teacher: Teacher, tmp_path: Path) -> None:
    save_adapter(adapted(tiny_teacher), "student", tmp_path)
    path, base = tmp_path / ADAPTER_FILE, single_denoiser(tiny_teacher)
    with pytest.raises(ValueError, match="another network"):
        load_adapter(nn.Sequential(nn.Linear(2, 2)), "student", tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"adapter\.safetensors is broken"):
        load_adapter(shared_copy(base), "student", tmp_path)


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (["to_query"], "has no module called to_query; use names such as"),
        (["to_q", "to_kk"], "has no module called to_kk"),  # peft leaves it out without a word
        (["o_q"], "has no module called o_q"),
        (["attn1"], r"attn1 means blocks\.0\.attn1, a WanAttention, which LoRA cannot adapt"),
    ],
)
def test_a_target_that_fits_nothing_is_refused(tiny_teacher: Teacher, targets: list[str], text: str) -> None:
    with pytest.raises(ValueError, match=f"student.lora.targets: .*{text}"):
        add_adapter(shared_copy(single_denoiser(tiny_teacher)), "student", 4, 4, targets)


def test_an_adapter_is_checked_by_its_header(
    tiny_teacher: Teacher, tiny_wan_folder: Path, tiny_cogvideox_folder: Path, tmp_path: Path
) -> None:
    save_adapter(adapted(tiny_teacher), "student", tmp_path)
    check_adapter(single_denoiser(outline_teacher(tiny_wan_folder).teacher), tmp_path, "restore it")
    with pytest.raises(ValueError, match=r"adapter\.safetensors is .*of another network.*restore it"):
        check_adapter(single_denoiser(outline_teacher(tiny_cogvideox_folder).teacher), tmp_path, "restore it")
    (tmp_path / ADAPTER_FILE).write_bytes((tmp_path / ADAPTER_FILE).read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"adapter\.safetensors is cut off: .*: restore it"):
        check_adapter(single_denoiser(tiny_teacher), tmp_path, "restore it")


class Grouped(nn.Module):
    """As SANA's feed-forward: a depthwise convolution between two that mix channels."""

    def __init__(self) -> None:
        super().__init__()
        inside = {"up": nn.Conv2d(4, 8, 1), "depth": nn.Conv2d(8, 8, 3, groups=8), "down": nn.Conv2d(8, 4, 1)}
        self.blocks = nn.ModuleList([nn.ModuleDict(inside)])


def test_convolutions_with_groups_have_no_adapter() -> None:
    network = Grouped()
    assert lora_targets(network) == ["blocks.0.up", "blocks.0.down"]
    add_adapter(network, "student", rank=4, alpha=4)
    merge_adapters(network)
    with pytest.raises(ValueError, match=r"depth means blocks\.0\.depth, a convolution of 8 groups, on which"):
        add_adapter(Grouped(), "student", 4, 4, ["up", "depth"])
