"""Stages of two experts: each is trained at its own times alone; an interrupted stage equals an uninterrupted one."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from fewstep.distill.batches import Batches
from fewstep.distill.discriminator import Discriminator, DiscriminatorSettings
from fewstep.distill.recipe import Recipe
from fewstep.distill.stages import stage_roles, stage_supervision
from fewstep.student.denoiser import Train
from fewstep.teacher.base import Teacher
from fewstep.teacher.experts import parts_of
from fewstep.teacher.interrupts import Signals
from tests.distill.one_stage import Case, after, ignore, weights

RELAXED = {"kind": "adversarial", "warmup": 2, "conditional": False, "discriminator": {"backbone": "lora", "width": 8}}
TRAINED = {"kind": "adversarial", "warmup": 1, "discriminator": {"backbone": "trained", "width": 8}}
FEW = {"student_steps": 4, "teacher_steps": 8, "steps": 4}


@pytest.fixture
def experts_case(tiny_experts: Teacher, tiny_experts_dataset: Path, tmp_path: Path) -> Case:
    (tmp_path / "run").mkdir()
    return Case(tiny_experts, tiny_experts_dataset, tmp_path / "run")


def recipe(**stage: Any) -> Recipe:
    values = {"teacher_steps": 8, "student_steps": 4, "batch": 4, "objective": {"kind": "progressive"}, **stage}
    lora = {"train": stage.pop("train", "lora"), "lora": {"rank": 4}}
    return Recipe.model_validate(
        {"data": {"kind": "rollouts", "prompts": "p.txt"}, "student": lora, "stages": [values]}
    )


@pytest.mark.parametrize("expert", [None, "high", "low"])
def test_each_student_is_trained_only_at_its_own_times(
    tiny_experts: Teacher, tiny_experts_dataset: Path, expert: str | None
) -> None:
    """Every forward with gradients of a stage's lessons, by the expert that makes it."""
    plan = recipe(expert=expert)
    roles = stage_roles(plan, 0, tiny_experts, None, None)
    supervision = stage_supervision(plan.stages[0], tiny_experts)
    arguments = defaultdict[str, set[float]](set)
    for name, part in parts_of(roles.student).items():

        def note(_: Any, args: Any, name: str = name) -> None:
            arguments[name] |= {round(t, 1) for t in args[1].tolist()}

        part.register_forward_pre_hook(note)
    batches = Batches(tiny_experts_dataset, tiny_experts, seed=0, stage=0)
    for position in range(8):
        batch = batches.batch(position, 4, 0.0)
        lesson = supervision.lesson(batch, roles)
        x0 = tiny_experts.denoise(lesson.z_t, lesson.t, batch.conditions, network=roles.student)
        (x0 - lesson.target(tiny_experts.schedule)).square().mean().backward()
    own = {"high": {1000.0, 937.5}, "low": {833.3, 625.0}}
    assert arguments == ({expert: own[expert]} if expert else own)
    moved = {key.split(".")[0] for key, p in roles.parameters.items() if p.grad is not None and bool(p.grad.any())}
    assert moved == set(arguments)


@pytest.mark.parametrize(
    ("kind", "train", "stage"),
    [
        ("progressive", "full", {}),
        pytest.param("adversarial", "lora", {}, marks=pytest.mark.slow),
        ("adversarial", "lora", {"objective": RELAXED, "accumulate": 2}),
        pytest.param("adversarial", "full", {"objective": TRAINED}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_stage_equals_an_uninterrupted_one_bit_for_bit(
    experts_case: Case, tmp_path: Path, kind: str, train: Train, stage: dict[str, Any]
) -> None:
    before = {key: tensor.clone() for key, tensor in experts_case.teacher.denoiser.state_dict().items()}
    whole = experts_case.trainer(kind, train, **FEW, **stage)
    whole.run(ignore, Signals())
    expected, curve = weights(whole), experts_case.curve()
    experts_case.folder = tmp_path / "again"
    experts_case.folder.mkdir()
    experts_case.trainer(kind, train, **FEW, **stage).run(*after(2))
    resumed = experts_case.trainer(kind, train, **FEW, **stage)
    assert resumed.step == 2
    resumed.run(ignore, Signals())
    actual = weights(resumed)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert experts_case.curve() == curve and len(curve) == 4
    after_all = experts_case.teacher.denoiser.state_dict()
    assert all(torch.equal(tensor, after_all[key]) for key, tensor in before.items())


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("backbone", ["frozen", "lora", "trained"])
def test_a_discriminator_reads_each_clip_by_the_expert_in_charge(
    tiny_experts: Teacher, backbone: str, conditional: bool
) -> None:
    settings = DiscriminatorSettings.model_validate({"width": 8, "backbone": backbone, "lora_rank": 2})
    clips = tiny_experts.noise([1, 2, 3], (16, 2, 2, 4))
    conditions = tiny_experts.conditions(["a ring", "a cross", "a star"])
    judge = Discriminator(tiny_experts, tiny_experts.denoiser, settings, clips, conditions, conditional)
    t, s = torch.tensor([1.0, 0.9375, 0.5]).double(), torch.tensor([0.9375, 0.6, 0.1]).double()  # across the boundary
    z_s = clips.clone().requires_grad_(True)
    starts = judge.read(clips, t, conditions) if conditional else None
    together = judge(z_s, s, conditions, starts)
    for i in range(3):
        one = slice(i, i + 1)
        start = judge.read(clips[one], t[one], conditions[one]) if conditional else None
        torch.testing.assert_close(
            together[one], judge(clips[one], s[one], conditions[one], start), atol=1e-4, rtol=1e-4
        )
    together.square().sum().backward()
    assert z_s.grad is not None and (z_s.grad.flatten(1).norm(dim=1) > 0).all()
    trained = {
        key.split(".")[1][:4] for key, p in judge.named_parameters() if p.grad is not None and "heads" not in key
    }
    assert len(trained) == (0 if backbone == "frozen" else 2)  # high and low


def test_features_of_both_experts_come_at_one_scale(tiny_experts: Teacher) -> None:
    clips, conditions = tiny_experts.noise(range(8), (16, 2, 2, 4)), tiny_experts.conditions(["a ring"] * 8)
    settings = DiscriminatorSettings(width=8)
    judge = Discriminator(tiny_experts, tiny_experts.denoiser, settings, clips, conditions, conditional=False)
    z = tiny_experts.noise(range(10, 18), (16, 2, 2, 4))
    for low, high in ((0.02, 0.87), (0.88, 1.0)):
        times = torch.linspace(low, high, 8, dtype=torch.float64)
        raw = tiny_experts.features(z, times, conditions, settings.depths)
        read = judge.read(z, times, conditions)
        offsets = [[float(f.mean(dim=(0, 2, 3, 4)).abs().mean()) for f in features] for features in (raw, read)]
        assert all(before > 2 * after_ for before, after_ in zip(*offsets, strict=True)), offsets
        assert all(0.5 < float(f.std()) < 2 for f in read)
