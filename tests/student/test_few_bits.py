"""A base of few bits: one for all roles, its adapters load on the teacher as it is, and nothing else is rounded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fewstep.student.denoiser import Roles, single_denoiser, student_network
from fewstep.student.few_bit_layers import FewBitLinear
from fewstep.student.few_bits import FewBits, base_of, chosen_layers, quantise_base
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from tests.student.few_steps import train

pytest.importorskip("torchao", reason="the extra fewstep[quant] is not installed")
pytest.importorskip("bitsandbytes", reason="the extra fewstep[nf4] is not installed")
ERRORS: dict[FewBits, float] = {"int8": 0.02, "fp8": 0.1, "nf4": 0.2}  # of predictions, relative
KINDS = ["int8", pytest.param("fp8", marks=pytest.mark.slow), "nf4"]  # torchao's two are alike


def fresh(folder: Path) -> Teacher:
    return load_teacher(folder, device="cpu")


def ask(teacher: Teacher, network: nn.Module | None = None) -> Tensor:
    z = teacher.noise([0, 1], teacher.latent_shape(9, 16, 16))
    return teacher.denoise(z, 0.8, teacher.conditions(["a red ring", "a cross"]), network=network)


def difference(actual: Tensor, exact: Tensor) -> float:
    return float((actual - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_stay_close(tiny_wide_folder: Path, kind: FewBits) -> None:
    teacher = fresh(tiny_wide_folder)
    exact = ask(teacher)
    quantise_base(teacher, kind)
    assert 0 < difference(ask(teacher), exact) < ERRORS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_linear_layers_of_blocks_alone_are_rounded_once(tiny_wide_folder: Path, kind: FewBits) -> None:
    teacher = fresh(tiny_wide_folder)
    quantise_base(teacher, kind)
    network = single_denoiser(teacher)
    rounded = {name: layer for name, layer in network.named_modules() if isinstance(layer, FewBitLinear)}
    assert rounded and all(name.startswith("blocks.") for name in rounded)
    before = [dict(layer.named_parameters()) for layer in rounded.values()]
    quantise_base(teacher, kind)
    after = [dict(layer.named_parameters()) for layer in rounded.values()]
    assert all(one[name] is other[name] for one, other in zip(before, after, strict=True) for name in one)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_as_through_the_layers_rounded_weights(tiny_wide_folder: Path, kind: FewBits) -> None:
    teacher = fresh(tiny_wide_folder)
    layer = chosen_layers(teacher, kind)[0]
    exact = layer.weight
    with base_of(teacher, kind):
        assert isinstance(layer, FewBitLinear)
        rounded = layer.full_weight(torch.float32)
        x = torch.randn(3, 5, layer.in_features, requires_grad=True)
        layer(x).square().sum().backward()
    assert layer.weight is exact and type(layer) is nn.Linear
    y = x.detach().clone().requires_grad_()
    nn.functional.linear(y, rounded, layer.bias).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_is_that_of_other_layers(tiny_wide_folder: Path, kind: FewBits) -> None:
    teacher = fresh(tiny_wide_folder)
    layer = chosen_layers(teacher, kind)[0]
    x = torch.randn(2, layer.in_features, requires_grad=True)
    with base_of(teacher, kind), torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
        output.sum().backward()
    assert output.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_all_roles_share_the_base(tiny_wide_folder: Path, tmp_path: Path, kind: FewBits) -> None:
    teacher = fresh(tiny_wide_folder)
    quantise_base(teacher, kind)
    first = Roles(teacher, "lora", rank=4)
    assert first.supervisor is first.backbone is teacher.denoiser
    train(first, ask)
    (tmp_path / "first").mkdir()
    first.save(tmp_path / "first")
    roles = Roles(teacher, "lora", tmp_path / "first", tmp_path / "first", rank=4)
    networks = (roles.student, roles.supervisor, roles.backbone)
    layers = [module for network in networks for module in network.modules() if isinstance(module, FewBitLinear)]
    held = {id(parameter) for layer in layers for parameter in layer.parameters() if parameter is not layer.bias}
    kept = {id(parameter) for layer in chosen_layers(teacher, kind) for parameter in layer.parameters()}
    assert len(layers) == 3 * len(chosen_layers(teacher, kind)) and held < kept


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_load_on_the_teacher_as_it_is(tiny_wide_folder: Path, tmp_path: Path, kind: FewBits) -> None:
    teacher = fresh(tiny_wide_folder)
    quantise_base(teacher, kind)
    roles = Roles(teacher, "lora", rank=4)
    train(roles, ask)
    (tmp_path / "student").mkdir()
    roles.save(tmp_path / "student")
    assert [file.name for file in (tmp_path / "student").iterdir()] == ["adapter.safetensors"]
    with roles.averaged():
        in_training = ask(teacher, roles.student).detach()
    whole = fresh(tiny_wide_folder)
    as_loaded = ask(whole, student_network(whole, tmp_path / "student"))
    assert difference(as_loaded, in_training) < ERRORS[kind] < difference(as_loaded, ask(whole))


def test_a_network_without_such_layers_is_refused(tiny_wide_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = fresh(tiny_wide_folder)
    monkeypatch.setattr(type(teacher), "blocks", lambda self, network: [])
    with pytest.raises(ValueError, match=r"WanTransformer3DModel has no linear layers in its blocks .* leave it out"):
        quantise_base(teacher, "int8")
