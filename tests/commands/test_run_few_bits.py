"""`fewstep run` with adapters on 8-bit weights: from a recipe to a student of the teacher as it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from fewstep.commands.shapes.entries import line_sha256
from fewstep.distill.recipe import read_recipe
from tests.commands.typed import fewstep

SETTINGS = ["student.train=lora", "student.lora.rank=4", "student.base=int8", "optimizer=adamw8bit", "average=cpu"]
WRONG = {
    "whole networks": (["student.train=full"], "student.base is int8, and 2-step, judged trains whole networks"),
    "one whole network": (["stages.1.train=full"], "student.base is int8, and judged trains whole networks"),
    "a trained backbone": (
        ["stages.1.objective.discriminator.backbone=trained"],
        "judged trains a whole copy of the teacher's network",
    ),
    "moments in main memory": (
        ["parallel.kind=fsdp", "parallel.offload=cpu"],
        "optimizer: adamw8bit keeps moments in blocks, which stay on the GPU",
    ),
    "another number of bits": (["student.base=int4"], "student.base is 'int4': use 'int8', 'fp8' or 'nf4'"),
    "another optimizer": (["optimizer=adam"], "optimizer is 'adam': use 'adamw', 'adamw_fused', 'adamw8bit' or "),
    "another place": (["average=disk"], "average is 'disk': use 'device' or 'cpu'"),
}


@pytest.fixture
def recipe(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    (tmp_path / "prompts.txt").write_text("a ring\na cross\n")
    stage = {"student_steps": 2, "teacher_steps": 4, "steps": 2, "batch": 2}
    judged = {"kind": "adversarial", "warmup": 0, "discriminator": {"width": 8}}
    values = {
        "teacher": str(tiny_wan_folder),
        "out": str(tmp_path / "run"),
        "device": "cpu",
        "precision": "float32",
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 4},
        "logging": {"tracker": "none", "prompts": ["a ring"]},
        "stages": [
            stage | {"name": "2-step", "objective": {"kind": "progressive"}},
            stage | {"name": "judged", "objective": judged},
        ],
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(recipe: Path, *settings: str, dry: bool = False) -> tuple[int, str]:
    words = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    return fewstep("run", recipe, *words, *(["--dry-run"] if dry else []))


@pytest.mark.slow
def test_a_run_ends_in_a_student_of_the_teacher_as_it_is(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("torchao", reason="the extra fewstep[quant] is not installed")
    code, output = run(recipe)
    assert code == 0, output
    stage = tmp_path / "run" / "stages" / "judged"
    assert json.loads((stage / "result.json").read_text())["base_bits"] == 8
    with safe_open(stage / "adapter.safetensors", framework="pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118
    code, output = fewstep("export", stage, "--to", "diffusers", "--out", tmp_path / "exported")
    assert code == 0, output
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "- trained: a LoRA adapter, stage judged, on the teacher's weights in int8" in card
    code, output = run(recipe, "optimizer=adamw")
    assert code == 2 and "was begun with another optimizer" in output
    code, output = run(recipe, "student.base=fp8")
    assert code == 2 and "was begun with another student.base" in output
    code, output = run(recipe, "average=device")
    assert code == 0 and "judged is finished" in output


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_go_together_is_refused_alike(recipe: Path, case: str) -> None:
    settings, expected = WRONG[case]
    for dry in (True, False):
        code, output = run(recipe, *settings, dry=dry)
        assert code == 2 and expected in " ".join(output.split()), output


@pytest.mark.parametrize("wanted", ["optimizer", "base"])
def test_a_missing_torchao_is_said_before_anything_else(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    module = {"optimizer": "torchao.optim", "base": "torchao.quantization"}[wanted]
    monkeypatch.setitem(sys.modules, module, None)
    code, output = run(recipe, *(["student.base=null"] if wanted == "optimizer" else ["optimizer=adamw"]), dry=True)
    named = {"optimizer": "optimizer adamw8bit", "base": "student.base=int8"}[wanted]
    assert code == 2 and f"{named} needs torchao" in output and "pip install 'fewstep[quant]'" in output


def test_runs_are_alike_where_what_they_learn_from_is(recipe: Path) -> None:
    """Seeds of one recipe are compared by a hash, which says nothing of settings that a recipe leaves alone."""

    def alike(*settings: str) -> str:
        return line_sha256(read_recipe(recipe, settings), 0)

    assert alike() == alike("average=cpu") == alike("student.base=null") == alike("optimizer=adamw")
    assert alike() == alike("stages.0.cooldown=0.3", "stages.0.ema=0.99")  # as is a setting that came later
    others = {
        alike("stages.0.objective.kind=adversarial"),
        alike("student.train=lora"),
        alike("student.train=lora", "student.base=int8"),
        alike("optimizer=adamw8bit"),
        alike("shift=3"),
        alike("control_scale=0.5"),
    }
    assert len({alike(), *others}) == 7


def test_a_recipe_of_before_goes_on(recipe: Path, tmp_path: Path) -> None:
    """It says nothing of optimizers and of where averages are."""
    plain = ["student.base=null", "optimizer=adamw", "average=device"]
    assert run(recipe, *plain)[0] == 0
    kept = tmp_path / "run" / "recipe.yaml"
    values = yaml.safe_load(kept.read_text())
    del values["optimizer"], values["average"], values["student"]["base"]
    kept.write_text(yaml.safe_dump(values))
    code, output = run(recipe, *plain)
    assert code == 0 and "judged is finished" in output
