"""What a dry run tells, without loading a weight, is what the networks really have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from fewstep.commands.run_cost import _count
from fewstep.distill.discriminator import Discriminator, DiscriminatorSettings
from fewstep.distill.estimate import stage_calls
from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.student.denoiser import Roles
from fewstep.teacher.base import load_teacher
from fewstep.teacher.outline import outline_teacher
from tests.commands.typed import fewstep


def recipe(folder: Path, teacher: Path) -> Path:
    (folder / "prompts.txt").write_text("a ring\na box\n")
    judged = {"kind": "adversarial", "warmup": 3, "discriminator": {"width": 8, "backbone": "lora", "lora_rank": 2}}
    values = {
        "teacher": str(teacher), "out": str(folder / "run"), "device": "cpu",
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 4},
        "student": {"train": "lora", "lora": {"rank": 4, "alpha": 4}},
        "stages": [
            {"teacher_steps": 8, "student_steps": 4, "guidance": 2, "steps": 7, "objective": {"kind": "progressive"}},
            {"teacher_steps": 4, "student_steps": 2, "steps": 5, "objective": judged},
        ],
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize("family", ["tiny_wan_folder", "tiny_cogvideox_folder", "tiny_animatediff_folder"])
@pytest.mark.parametrize("conditional", [True, False])
def test_parameters_are_those_that_are_trained(
    request: pytest.FixtureRequest, tmp_path: Path, family: str, conditional: bool
) -> None:
    folder = request.getfixturevalue(family)
    plan = read_recipe(recipe(tmp_path, folder), [f"stages.1.objective.conditional={str(conditional).lower()}"])
    counts = _count(outline_teacher(folder).teacher, plan, plan.stages[1])
    teacher = load_teacher(folder, device="cpu")
    roles = Roles(teacher, "lora", rank=4, alpha=4)
    settings = DiscriminatorSettings(width=8, backbone="lora", lora_rank=2)
    size = teacher.default_size()
    assert size is not None
    clips = teacher.noise([0], teacher.latent_shape(*size))
    judge = Discriminator(teacher, roles.backbone, settings, clips, teacher.conditions(["a ring"]), conditional)
    heads, counted = sum(p.numel() for p in judge.heads.parameters()), counts.pop("num_heads")
    if "unet" in teacher.pipeline.components:  # taps of a UNet differ in width, and all are counted as the widest
        assert heads <= counted < 1.2 * heads
    else:
        assert counted == heads
    assert counts == {
        "num_parameters": sum(p.numel() for p in teacher.network_at(1.0).parameters()),
        "num_adapters": sum(p.numel() for p in roles.parameters.values()),
        "num_discriminator_adapters": sum(p.numel() for p in judge.parameters() if p.requires_grad) - heads,
    }


def test_the_tables_say_which_count_is_whose(tmp_path: Path, tiny_wan_folder: Path) -> None:
    path = recipe(tmp_path, tiny_wan_folder)
    code, output = fewstep("run", path, "--dry-run")
    assert code == 0
    plan: Recipe = read_recipe(path)
    for stage in plan.stages:
        calls = stage_calls(stage, outline_teacher(plan.teacher).teacher.schedule)
        expected = [
            calls.supervisor, calls.student_forward, calls.student_backward, calls.discriminator_forward,
            calls.discriminator_backward,
        ]  # fmt: skip
        told = re.search(rf"{stage.name}\s*" + r"\s*".join(f"│ *{count:,} *" for count in expected), output)
        assert told, (output, expected)
