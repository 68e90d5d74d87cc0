"""Clips whose tokens two processes share: features are those of the whole clip, and gradients add up to the clip's."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fewstep.teacher.sharded import all_tokens, context_size, shared_gradient
from tests.forked import run_scripts
from tests.tiny_pipelines import save_tiny_given_wan

TWO_PROCESSES = """
import sys, torch
from copy import deepcopy
from torch import distributed, nn
from fewstep.distill.split_clips import groups_mesh, split_clips
from fewstep.teacher.base import VideoSize
from fewstep.teacher.experts import parts_of, with_parts
from fewstep.teacher.given import noise_given
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.ranks import join_processes
from fewstep.teacher.sharded import context_size, shared_gradient

join_processes(cpu=True)
teacher = load_teacher(sys.argv[1], device="cpu")
whole = deepcopy(teacher.denoiser).requires_grad_(True)
part = deepcopy(whole)
split_clips(part, mesh := groups_mesh("cpu", 1, 2))
torch.manual_seed(0)
z, conditions = torch.randn(2, *teacher.latent_shape(9, 16, 32)), teacher.conditions(["a ring", "a box"])
heads = [nn.Linear(whole.config.num_attention_heads * whole.config.attention_head_dim, 1) for _ in range(2)]
heads[1].load_state_dict(heads[0].state_dict())

def gradients(network, head):
    own = z.clone().requires_grad_()
    (features,) = teacher.features(own, 0.5, conditions, (0.5,), network)
    logits = shared_gradient(head(features.mean(dim=(3, 4)).square().transpose(1, 2)), network)
    logits.square().sum().backward()
    block = teacher.blocks(network)[0]
    return [features.detach(), head.weight.grad, own.grad, *(p.grad for p in block.parameters())]

expected, parts = gradients(whole, heads[0]), gradients(part, heads[1])
assert context_size(whole) == 1 and context_size(part) == 2
assert (parts[0] - expected[0]).abs().max() < 1e-5 * expected[0].abs().max(), "features"
for number, (mine, right) in enumerate(zip(parts[1:], expected[1:], strict=True)):
    distributed.all_reduce(mine)
    assert (mine - right).abs().max() < 1e-4 * right.abs().max(), (number, mine.norm(), right.norm())

for folder, *given in (word.split(":") for word in sys.argv[3:]):
    teacher = load_teacher(folder, device="cpu")
    teacher.take(given)
    teacher.use_size(size := VideoSize(13, 32, 64))
    conditions = teacher.conditions(["a ring"], "", size, noise_given(teacher.given_sizes(size)) or None)
    parts = {name: deepcopy(network) for name, network in parts_of(teacher.denoiser).items()}
    for network in parts.values():
        split_clips(network, mesh)
    z, part = torch.randn(1, *teacher.latent_shape(*size)), with_parts(teacher.denoiser, parts)
    with torch.no_grad():
        for t in (0.95, 0.4):  # one of each expert
            expected, mine = (teacher.denoise(z, t, conditions, network=n) for n in (teacher.denoiser, part))
            assert (mine - expected).abs().max() < 1e-5 * expected.abs().max(), (folder, t)
open(f"{sys.argv[2]}/{distributed.get_rank()}", "w").write("alike")
"""


def test_two_parts_of_clips_are_the_clips(tmp_path: Path, tiny_wan_folder: Path, tiny_experts_folder: Path) -> None:
    """Features and gradients of Wan; predictions of Wan from an image and of two experts."""
    save_tiny_given_wan(tmp_path / "i2v", "i2v")
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    others = [f"{tmp_path / 'i2v'}:first", tiny_experts_folder]
    run_scripts(2, script, tiny_wan_folder, tmp_path, *others, logs=tmp_path)
    assert [(tmp_path / name).read_text() for name in "01"] == ["alike", "alike"]


def test_a_whole_network_is_left_alone() -> None:
    network, tokens = nn.Linear(2, 2), torch.ones(1, 2, 2)
    assert context_size(network) == 1
    assert all_tokens(network, tokens) is tokens and shared_gradient(tokens, network) is tokens
