"""What a process of several is said to take of memory is what it takes: with networks whole in each, or sharded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.distill.fitting import remedies
from fewstep.distill.recipe import Recipe
from fewstep.distill.step_cost import StepCounter
from fewstep.teacher.limits import GIB
from fewstep.teacher.outline import outline_teacher
from tests.distill import sharded_memory

PROMPT = "a red ball rolls slowly across a wooden table"
SHARDED = {"kind": "fsdp"}


def recipe_of(folder: Path, train: str = "full", backbone: str = "frozen", batch: int = 2, **more: object) -> Recipe:
    """An adversarial stage of so many clips."""
    judged = {"kind": "adversarial", "warmup": 0, "discriminator": {"width": 8, "backbone": backbone}}
    stage = {"name": "judged", "teacher_steps": 4, "student_steps": 2, "steps": 4, "batch": batch, "objective": judged}
    settings = {
        "teacher": str(folder),
        "out": "run",
        "device": "cpu",
        "data": {"kind": "rollouts", "prompts": "prompts.txt"},
        "student": {"train": train, "lora": {"rank": 2}},
        "stages": [stage],
    }
    return Recipe.model_validate(settings | more)


def counter_of(recipe: Recipe, num_processes: int) -> StepCounter:
    teacher = outline_teacher(recipe.teacher).teacher
    size = teacher.default_size()
    assert size is not None
    teacher.use_size(size)
    return StepCounter(teacher, size, "float32", teacher.count_tokens([PROMPT])[0] or None, num_processes)


@pytest.mark.parametrize(("train", "backbone"), [("lora", "frozen"), ("full", "trained")])
def test_two_processes_hold_what_is_said(tiny_wan_folder: Path, tmp_path: Path, train: str, backbone: str) -> None:
    """A step besides takes less on paper: gloo copies what it gathers, which GPUs do not."""
    recipe = recipe_of(tiny_wan_folder, train, backbone, parallel=SHARDED)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, sharded_memory.__file__, str(tmp_path / "recipe.json"), PROMPT, str(tmp_path / "held.json")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    held, step = json.loads((tmp_path / "held.json").read_text())
    cost = counter_of(recipe, 2).cost(recipe, 0)
    assert cost.shards and cost.held * GIB == pytest.approx(held, rel=0.02)
    assert 0.7 < cost.peak * GIB / (held + step) < 1.05


def test_shares_are_smaller_the_more_processes_there_are(tiny_wan_folder: Path) -> None:
    whole, sharded = recipe_of(tiny_wan_folder, batch=8), recipe_of(tiny_wan_folder, batch=8, parallel=SHARDED)
    alone, two, eight = (counter_of(sharded, count).cost(sharded, 0) for count in (1, 2, 8))
    assert alone == counter_of(whole, 1).cost(whole, 0) and not alone.shards
    assert alone.held > two.held > eight.held and two.peak > eight.peak
    waiting = recipe_of(tiny_wan_folder, batch=8, parallel={"kind": "fsdp", "offload": "cpu"})
    assert counter_of(waiting, 8).cost(waiting, 0).held < eight.held


def test_whole_networks_take_a_share_of_the_batch(tiny_wan_folder: Path) -> None:
    many, few = recipe_of(tiny_wan_folder, batch=4), recipe_of(tiny_wan_folder, batch=2)
    assert counter_of(many, 2).cost(many, 0) == counter_of(few, 1).cost(few, 0)
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 4 clips equally"):
        counter_of(many, 3).cost(many, 0)


def test_sharding_is_offered_where_there_are_several(tiny_wan_folder: Path) -> None:
    recipe = recipe_of(tiny_wan_folder)

    def offered(num_processes: int) -> list[str]:
        return [" ".join(settings) for settings, _ in remedies(recipe, 0, num_processes)]

    assert not any("parallel" in settings for settings in offered(1))
    exact = "stages.judged.accumulate=2 gradient_checkpointing=true average=cpu parallel.kind=fsdp"
    assert exact not in offered(2)  # a clip each is as few as there can be
    exact = exact.removeprefix("stages.judged.accumulate=2 ")
    assert exact in offered(2) and f"{exact} parallel.offload=cpu" in offered(2)
