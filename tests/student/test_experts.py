"""Students of two experts: trained together or one at a time, on disk a folder each, in the contract by their nodes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fewstep.student.contract import SamplingContract, read_contract
from fewstep.student.denoiser import Roles, Train, single_denoiser, student_network
from fewstep.student.load_student import load_student
from fewstep.student.weights import check_weights, is_adapter, weights_sha256
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.experts import parts_of
from fewstep.teacher.load_teacher import load_teacher
from tests.student.few_steps import train

TRAINS: tuple[Train, ...] = ("full", "lora")
# All are quick in test_denoiser.py, with one network.
ALIKE = [pytest.param("full", "full", marks=pytest.mark.slow), pytest.param("lora", "lora", marks=pytest.mark.slow)]
PAIRS = [("full", "lora"), ("lora", "full"), *ALIKE]
TIMES = torch.tensor([0.9375, 0.4], dtype=torch.float64)  # high, low


def ask(teacher: Teacher, network: nn.Module | None) -> Tensor:
    z = teacher.noise([0, 1], teacher.latent_shape(9, 16, 16))
    return teacher.denoise(z, TIMES, teacher.conditions(["a red ring", "a cross"]), 3.0, network)


def contract_of(roles: Roles, steps: int = 4) -> SamplingContract:
    return SamplingContract.of(
        roles.teacher, str(roles.teacher.folder), steps, roles.weights, VideoSize(9, 16, 16), 1.0, "", 8.0,
        trained=roles.own,
    )  # fmt: skip


def saved(roles: Roles, folder: Path) -> Path:
    folder.mkdir()
    roles.save(folder)
    contract_of(roles).write(folder)
    return folder


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("mode", TRAINS)
def test_an_untrained_student_equals_the_teacher_bit_for_bit(tiny_experts: Teacher, mode: Train) -> None:
    roles, expected = Roles(tiny_experts, mode, rank=4), ask(tiny_experts, None)
    for network in (roles.student, roles.supervisor, roles.backbone):
        assert torch.equal(ask(tiny_experts, network), expected)


@pytest.mark.parametrize("mode", TRAINS)
def test_one_step_gives_gradients_in_both_and_none_in_the_teacher(tiny_experts: Teacher, mode: Train) -> None:
    before = weights(tiny_experts.denoiser)
    roles = Roles(tiny_experts, mode, rank=4)
    ask(tiny_experts, roles.student).square().mean().backward()
    for name in ("high", "low"):
        gradients = [p.grad for key, p in roles.parameters.items() if key.startswith(f"{name}.")]
        assert sum(g is not None and bool(g.any()) for g in gradients) > len(gradients) / 3
    train(roles, ask)
    after = tiny_experts.denoiser.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None and not p.requires_grad for p in tiny_experts.denoiser.parameters())


@pytest.mark.parametrize("mode", TRAINS)
def test_the_expert_that_is_not_trained_stays_bit_identical(tiny_experts: Teacher, tmp_path: Path, mode: Train) -> None:
    roles = Roles(tiny_experts, mode, rank=4, experts=("high",))
    assert all(key.startswith("high.") for key in roles.parameters) and roles.own == ("high",)
    train(roles, ask)
    actual, expected = ask(tiny_experts, roles.student), ask(tiny_experts, None)
    assert torch.equal(actual[1], expected[1]) and not torch.allclose(actual[0], expected[0])
    assert parts_of(roles.student)["low"] is parts_of(tiny_experts.denoiser)["low"]  # it takes no memory of its own
    folder = saved(roles, tmp_path / "stage")
    assert sorted(path.name for path in folder.iterdir()) == ["contract.json", "high"]
    with roles.averaged():
        torch.testing.assert_close(
            ask(tiny_experts, student_network(tiny_experts, folder)), ask(tiny_experts, roles.student)
        )


@pytest.mark.parametrize(("earlier", "later"), PAIRS)
def test_one_after_the_other(tiny_experts: Teacher, tmp_path: Path, earlier: Train, later: Train) -> None:
    first = Roles(tiny_experts, earlier, rank=4, experts=("high",))
    train(first, ask)
    start = saved(first, tmp_path / "first")
    second = Roles(tiny_experts, later, start, start, rank=4, experts=("low",))
    expected = ask(tiny_experts, student_network(tiny_experts, start))
    torch.testing.assert_close(ask(tiny_experts, second.student), expected)
    assert parts_of(second.student)["high"] is parts_of(second.supervisor)["high"]
    train(second, ask)
    torch.testing.assert_close(ask(tiny_experts, second.supervisor), expected)
    folder = saved(second, tmp_path / "second")
    assert second.own == ("high", "low") and second.weights == ("lora" if earlier == later == "lora" else "full")
    assert [is_adapter(folder / name) for name in ("high", "low")] == [earlier == "lora", later == "lora"]
    for file in (start / "high").iterdir():
        assert file.read_bytes() == (folder / "high" / file.name).read_bytes()
    actual = ask(tiny_experts, student_network(tiny_experts, folder))
    torch.testing.assert_close(actual[0], expected[0])
    assert not torch.allclose(actual[1], expected[1])
    assert weights_sha256(folder) != weights_sha256(start)


@pytest.mark.parametrize(("earlier", "later"), PAIRS)
def test_a_stage_of_both_starts_from_the_last_one(
    tiny_experts: Teacher, tmp_path: Path, earlier: Train, later: Train
) -> None:
    first = Roles(tiny_experts, earlier, rank=4)
    train(first, ask)
    start = saved(first, tmp_path / "first")
    second = Roles(tiny_experts, later, start, start, rank=4)
    with first.averaged():
        expected = ask(tiny_experts, first.student)
    torch.testing.assert_close(ask(tiny_experts, second.student), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ask(tiny_experts, second.supervisor), expected, atol=1e-4, rtol=1e-4)
    train(second, ask)
    folder = saved(second, tmp_path / "second")
    with second.averaged():
        actual = ask(tiny_experts, student_network(tiny_experts, folder))
        torch.testing.assert_close(actual, ask(tiny_experts, second.student), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(actual, expected, atol=1e-3)


def test_an_expert_that_no_node_uses_is_not_saved(tiny_experts: Teacher, tmp_path: Path) -> None:
    roles = Roles(tiny_experts, "lora", rank=4)
    contract = contract_of(roles, steps=1)
    assert [(e.name, e.nodes) for e in contract.experts] == [("high", (0,))]
    roles.save(tmp_path, [e.name for e in contract.experts])
    contract.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["contract.json", "high"]
    check_weights(tmp_path, tiny_experts.denoiser)
    assert load_student(tmp_path, teacher=tiny_experts).contract == contract


def test_lost_weights_are_refused(tiny_experts: Teacher, tmp_path: Path) -> None:
    folder = saved(Roles(tiny_experts, "lora", rank=4), tmp_path / "stage")
    check_weights(folder, tiny_experts.denoiser)
    shutil.rmtree(folder / "low")
    for look in (lambda: check_weights(folder, tiny_experts.denoiser), lambda: student_network(tiny_experts, folder)):
        with pytest.raises(ValueError, match="low is missing, the low expert's weights: restore it"):
            look()


def test_checkpointing_changes_no_gradient_of_either(tiny_experts_folder: Path) -> None:
    teacher, gradients = load_teacher(tiny_experts_folder, device="cpu"), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        roles = Roles(teacher, "lora", rank=4)
        if checkpointing:
            roles.checkpoint_gradients()
            assert all(part.is_gradient_checkpointing for part in parts_of(roles.student).values())
        ask(teacher, roles.student).square().mean().backward()
        gradients.append([p.grad for p in roles.parameters.values() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 0
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))


def test_the_contract_says_who_has_which_nodes(tiny_experts: Teacher, tmp_path: Path) -> None:
    contract = contract_of(Roles(tiny_experts, "lora", rank=4, experts=("low",)))
    assert [(e.name, e.component, e.nodes, e.trained) for e in contract.experts] == [
        ("high", "transformer", (0, 1), False),  # 1000 and 937.5
        ("low", "transformer_2", (2, 3), True),  # 833.3 and 625
    ]
    contract.write(tmp_path)
    assert read_contract(tmp_path) == contract
    contract.check_teacher(tiny_experts)
    path = tmp_path / "contract.json"
    text = json.loads(path.read_text())
    text["experts"][1]["nodes"] = [2]
    path.write_text(json.dumps(text))
    with pytest.raises(ValueError, match="the experts do not have each of the 4 nodes once"):
        read_contract(tmp_path)


def test_a_contract_and_a_teacher_that_disagree_on_the_boundary_are_refused(
    tiny_experts: Teacher, tiny_teacher: Teacher
) -> None:
    contract = contract_of(Roles(tiny_experts, "lora", rank=4))
    one, two = contract.experts
    moved = (one.model_copy(update={"nodes": (0,)}), two.model_copy(update={"nodes": (1, 2, 3)}))
    with pytest.raises(
        ValueError, match=r"to high \(transformer: 1\), low .*: 2 3 4\), and .* to high \(transf.*: 1 2\)"
    ):
        contract.model_copy(update={"experts": moved}).check_teacher(tiny_experts)
    with pytest.raises(ValueError, match="gives the student's nodes to one network, and"):
        contract.model_copy(update={"experts": ()}).check_teacher(tiny_experts)
    of_one = SamplingContract.of(tiny_teacher, "tiny", 4, "full", VideoSize(9, 16, 16), 1.0, "", 8.0)
    with pytest.raises(ValueError, match=r"and .* to one network"):
        of_one.model_copy(update={"experts": contract.experts}).check_teacher(tiny_teacher)


def test_a_contract_of_version_1_is_of_one_network(tiny_teacher: Teacher, tmp_path: Path) -> None:
    contract = SamplingContract.of(tiny_teacher, "tiny", 4, "full", VideoSize(9, 16, 16), 1.0, "", 8.0)
    assert contract.experts == ()
    new = contract.model_dump(mode="json")
    later = ("experts", "given", "embedded_guidance", "control_scale", "sizes")
    old = {key: value for key, value in new.items() if key not in later} | contract.size._asdict() | {"version": 1}
    (tmp_path / "contract.json").write_text(json.dumps(old))
    assert read_contract(tmp_path) == contract
    (tmp_path / "contract.json").write_text(json.dumps(old | {"version": 9}))
    with pytest.raises(ValueError, match=r"is not whole \(version"):
        read_contract(tmp_path)


def test_a_contract_of_version_2_is_of_a_denoiser_that_is_told_nothing(tiny_teacher: Teacher, tmp_path: Path) -> None:
    contract = SamplingContract.of(tiny_teacher, "tiny", 4, "full", VideoSize(9, 16, 16), 1.0, "", 8.0)
    new = contract.model_dump(mode="json")
    later = ("embedded_guidance", "control_scale", "sizes")
    old = {k: v for k, v in new.items() if k not in later} | contract.size._asdict()
    old["version"] = 2
    (tmp_path / "contract.json").write_text(json.dumps(old))
    assert read_contract(tmp_path) == contract
    del old["given"]
    (tmp_path / "contract.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"is not whole \(given"):
        read_contract(tmp_path)


def test_what_holds_one_network_refuses_two(tiny_experts: Teacher) -> None:
    with pytest.raises(ValueError, match="has two denoisers"):
        single_denoiser(tiny_experts)
