"""Roles: untrained students equal what they start from, only the student moves, and weights are there once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fewstep.student.denoiser import Roles, Train, single_denoiser, student_network
from fewstep.student.weights import is_adapter
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from tests.student.few_steps import train

TRAINS: tuple[Train, ...] = ("full", "lora")


@pytest.fixture
def teacher(tiny_wan_folder: Path) -> Teacher:
    return load_teacher(tiny_wan_folder, device="cpu")


def ask(teacher: Teacher, network: nn.Module) -> Tensor:
    z = teacher.noise([0, 1], teacher.latent_shape(9, 16, 16))
    return teacher.denoise(z, 0.8, teacher.conditions(["a red ring", "a cross"]), network=network)


def saved(roles: Roles, folder: Path) -> Path:
    folder.mkdir()
    roles.save(folder)
    return folder


@pytest.mark.parametrize("mode", TRAINS)
def test_an_untrained_student_equals_the_teacher(teacher: Teacher, mode: Train) -> None:
    roles = Roles(teacher, mode, rank=4)
    expected = ask(teacher, single_denoiser(teacher))
    assert torch.equal(ask(teacher, roles.student), expected)
    assert torch.equal(ask(teacher, roles.supervisor), expected)


def test_saved_weights_name_nobodys_folder(teacher: Teacher, tmp_path: Path) -> None:
    folder = saved(Roles(teacher, "full"), tmp_path / "student")
    assert json.loads((folder / "config.json").read_text())["_name_or_path"] == ""


def test_a_whole_student_is_loaded_without_a_copy_of_the_teacher(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(Roles(teacher, "full"), tmp_path / "student")
    copied, copy = list[nn.Parameter](), nn.Parameter.__deepcopy__

    def noted(parameter: nn.Parameter, memo: dict[int, object]) -> nn.Parameter:
        copied.append(parameter)
        return copy(parameter, memo)

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", noted)
    student, own = student_network(teacher, folder), single_denoiser(teacher)
    assert not copied
    assert {p.data_ptr() for p in student.parameters()}.isdisjoint(p.data_ptr() for p in own.parameters())


@pytest.mark.parametrize("mode", TRAINS)
def test_only_the_student_moves(teacher: Teacher, mode: Train) -> None:
    before = {k: v.clone() for k, v in single_denoiser(teacher).state_dict().items()}
    expected = ask(teacher, single_denoiser(teacher))
    roles = Roles(teacher, mode, rank=4)
    train(roles, ask)
    after = single_denoiser(teacher).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert torch.equal(ask(teacher, roles.supervisor), expected) and torch.equal(ask(teacher, roles.backbone), expected)
    assert not torch.allclose(ask(teacher, roles.student), expected)
    assert all(p.grad is None for p in single_denoiser(teacher).parameters())


def test_adapters_need_one_copy_of_the_weights(teacher: Teacher, tmp_path: Path) -> None:
    first = Roles(teacher, "lora", rank=4)
    train(first, ask)
    start = saved(first, tmp_path / "first")
    roles = Roles(teacher, "lora", start, start, rank=4)
    networks = (roles.student, roles.supervisor, roles.backbone)
    large = {p.data_ptr() for network in networks for p in network.parameters() if p.shape == (24, 24)}
    own = [p for p in single_denoiser(teacher).parameters() if p.shape == (24, 24)]
    assert len(large) == len(own) > 0  # rank 4 adapters have other shapes


@pytest.mark.parametrize("later", TRAINS)
@pytest.mark.parametrize("earlier", TRAINS)
def test_a_stage_starts_from_the_last_one(teacher: Teacher, tmp_path: Path, earlier: Train, later: Train) -> None:
    first = Roles(teacher, earlier, rank=4)
    train(first, ask)
    start = saved(first, tmp_path / "first")
    with first.averaged():
        expected = ask(teacher, first.student)
    second = Roles(teacher, later, start, start, rank=4)
    assert torch.allclose(ask(teacher, second.student), expected, atol=1e-4)
    assert torch.allclose(ask(teacher, second.supervisor), expected, atol=1e-4)
    train(second, ask)
    assert torch.allclose(ask(teacher, second.supervisor), expected, atol=1e-4)
    again = saved(second, tmp_path / "second")
    assert is_adapter(again) == (earlier == later == "lora") == (second.weights == "lora")
    with second.averaged():
        assert torch.allclose(ask(teacher, student_network(teacher, again)), ask(teacher, second.student), atol=1e-4)


def test_the_average_comes_and_goes(teacher: Teacher) -> None:
    roles = Roles(teacher, "lora", rank=4)
    train(roles, ask)
    outside = {name: p.detach().clone() for name, p in roles.parameters.items()}
    averages = {name: average.clone() for name, average in roles.average.items()}
    assert any(not torch.equal(outside[name], averages[name]) for name in outside)
    with roles.averaged():
        assert all(torch.equal(p, averages[name]) for name, p in roles.parameters.items())
        assert all(torch.equal(average, outside[name]) for name, average in roles.average.items())  # no third set
    assert all(torch.equal(p, outside[name]) for name, p in roles.parameters.items())
    assert all(torch.equal(average, averages[name]) for name, average in roles.average.items())
    before = {name: average.clone() for name, average in roles.average.items()}
    roles.update_average(0.9)
    for name, average in roles.average.items():
        torch.testing.assert_close(average, 0.9 * before[name] + 0.1 * outside[name])


@pytest.mark.parametrize("mode", TRAINS)
def test_checkpointing_changes_no_gradient(teacher: Teacher, mode: Train) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        roles = Roles(teacher, mode, rank=4)
        if checkpointing:
            roles.checkpoint_gradients()
        ask(teacher, roles.student).square().mean().backward()
        gradients.append([p.grad for p in roles.parameters.values() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))


def test_foreign_weights_are_refused(teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="restore it"):
        student_network(teacher, tmp_path)


def test_checkpointing_the_backbone_changes_no_gradient_of_what_a_discriminator_reads(teacher: Teacher) -> None:
    gradients = []
    conditions = teacher.conditions(["a red ring"])
    for checkpointing in (False, True):
        roles = Roles(teacher, "lora", rank=4)
        if checkpointing:
            roles.checkpoint_gradients()
        z = teacher.noise([0], teacher.latent_shape(9, 16, 16)).requires_grad_(True)
        features = teacher.features(z, 0.5, conditions, network=roles.backbone)
        sum(f.square().mean() for f in features).backward()  # type: ignore[union-attr]
        gradients.append(z.grad)
    assert (
        gradients[0] is not None and gradients[1] is not None and torch.allclose(gradients[0], gradients[1], rtol=1e-4)
    )
