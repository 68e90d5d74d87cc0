"""An 8-bit base: one for all roles, its adapters load on the teacher as it is, and nothing else is rounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fewstep.student.denoiser import Roles, student_network, the_denoiser
from fewstep.student.eight_bits import EightBits, base_of, chosen_layers, is_quantised, quantise_base
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from tests.student.few_steps import train

pytest.importorskip("torchao", reason="the extra fewstep[quant] is not installed")
ERRORS: dict[EightBits, float] = {"int8": 0.02, "fp8": 0.1}  # of predictions, relative


def fresh(folder: Path) -> Teacher:
    return load_teacher(folder, device="cpu")


def ask(teacher: Teacher, network: nn.Module | None = None) -> Tensor:
    z = teacher.noise([0, 1], teacher.latent_shape(9, 16, 16))
    return teacher.denoise(z, 0.8, teacher.conditions(["a red ring", "a cross"]), network=network)


def difference(actual: Tensor, exact: Tensor) -> float:
    return float((actual - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", ERRORS)
def test_predictions_stay_close(tiny_wan_folder: Path, kind: EightBits) -> None:
    teacher = fresh(tiny_wan_folder)
    exact = ask(teacher)
    quantise_base(teacher, kind)
    assert 0 < difference(ask(teacher), exact) < ERRORS[kind]


def test_linear_layers_of_blocks_alone_are_rounded_once(tiny_wan_folder: Path) -> None:
    teacher = fresh(tiny_wan_folder)
    quantise_base(teacher, "int8")
    network = the_denoiser(teacher)
    layers = dict(network.named_modules())
    rounded = {name: layers[name.removesuffix(".weight")] for name, p in network.named_parameters() if is_quantised(p)}
    assert rounded and all(name.startswith("blocks.") for name in rounded)
    assert not any(is_quantised(parameter) for parameter in network.condition_embedder.parameters())
    before = [layer.weight for layer in rounded.values()]
    quantise_base(teacher, "int8")
    assert all(layer.weight is weight for layer, weight in zip(rounded.values(), before, strict=True))


def test_gradients_pass_as_through_the_layers_rounded_weights(tiny_wan_folder: Path) -> None:
    teacher = fresh(tiny_wan_folder)
    layer = chosen_layers(teacher)[0]
    with base_of(teacher, "int8"):
        rounded = layer.weight.dequantize()
        x = torch.randn(3, 5, layer.in_features, requires_grad=True)
        layer(x).square().sum().backward()
    assert not is_quantised(layer.weight) and type(layer) is nn.Linear
    y = x.detach().clone().requires_grad_()
    nn.functional.linear(y, rounded, layer.bias).square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)


def test_autocast_is_that_of_other_layers(tiny_wan_folder: Path) -> None:
    teacher = fresh(tiny_wan_folder)
    layer = chosen_layers(teacher)[0]
    x = torch.randn(2, layer.in_features, requires_grad=True)
    with base_of(teacher, "int8"), torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
        output.sum().backward()
    assert output.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.float32


def test_all_roles_share_the_base(tiny_wan_folder: Path, tmp_path: Path) -> None:
    teacher = fresh(tiny_wan_folder)
    quantise_base(teacher, "int8")
    first = Roles(teacher, "lora", rank=4)
    assert first.supervisor is first.backbone is teacher.denoiser
    train(first, ask)
    (tmp_path / "first").mkdir()
    first.save(tmp_path / "first")
    roles = Roles(teacher, "lora", tmp_path / "first", tmp_path / "first", rank=4)
    networks = (roles.student, roles.supervisor, roles.backbone)
    weights: list[Any] = [p for network in networks for p in network.parameters() if is_quantised(p)]
    held = {weight.qdata.data_ptr() for weight in weights}
    assert len(held) == len(chosen_layers(teacher)) > 0


@pytest.mark.parametrize("kind", ERRORS)
def test_adapters_load_on_the_teacher_as_it_is(tiny_wan_folder: Path, tmp_path: Path, kind: EightBits) -> None:
    teacher = fresh(tiny_wan_folder)
    quantise_base(teacher, kind)
    roles = Roles(teacher, "lora", rank=4)
    train(roles, ask)
    (tmp_path / "student").mkdir()
    roles.save(tmp_path / "student")
    assert [file.name for file in (tmp_path / "student").iterdir()] == ["adapter.safetensors"]
    with roles.averaged():
        in_training = ask(teacher, roles.student).detach()
    whole = fresh(tiny_wan_folder)
    as_loaded = ask(whole, student_network(whole, tmp_path / "student"))
    assert difference(as_loaded, in_training) < ERRORS[kind] < difference(as_loaded, ask(whole))


def test_a_network_without_such_layers_is_refused(tiny_wan_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = fresh(tiny_wan_folder)
    monkeypatch.setattr(type(teacher), "blocks", lambda self, network: [])
    with pytest.raises(ValueError, match=r"WanTransformer3DModel has no linear layers in its blocks .* leave it out"):
        quantise_base(teacher, "int8")
