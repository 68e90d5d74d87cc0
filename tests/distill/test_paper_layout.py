"""What a process of several is said to take of memory is what it takes: with networks whole in each, or sharded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from fewstep.distill.fitting import remedies
from fewstep.distill.parallel import check_sharded
from fewstep.distill.step_cost import StepCost
from fewstep.teacher.guidance import Guidance
from fewstep.teacher.limits import GIB
from tests.distill import sharded_memory
from tests.distill.counters import PROMPT, counter_of, recipe_of
from tests.forked import run_scripts

SHARDED = {"kind": "fsdp"}


def cost_of(num_processes: int, folder: Path, train: str = "full", **more: Any) -> StepCost:
    recipe = recipe_of(folder, train, penalties=None, **more)
    return counter_of(recipe, num_processes)[0].cost(recipe, 0)


@pytest.mark.parametrize(("train", "backbone"), [("lora", "frozen"), ("full", "trained")])
def test_two_processes_hold_what_is_said(
    request: pytest.FixtureRequest, tiny_wan_folder: Path, tmp_path: Path, train: str, backbone: str
) -> None:
    """Within a step networks of this size take somewhat less on paper: LOG.md."""
    if not request.config.getoption("--scale"):
        pytest.skip("`make scale` runs it")
    recipe = recipe_of(tiny_wan_folder, train, backbone, penalties=None, parallel=SHARDED)
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    arguments = tmp_path / "recipe.json", PROMPT, tmp_path / "held.json"
    run_scripts(2, sharded_memory.__file__, *arguments, logs=tmp_path)
    held, step = json.loads((tmp_path / "held.json").read_text())
    cost = cost_of(2, tiny_wan_folder, train, backbone=backbone, parallel=SHARDED)
    assert cost.shards and cost.held * GIB == pytest.approx(held, rel=0.02)
    assert 0.7 < cost.peak * GIB / (held + step) < 1.05


@pytest.mark.slow
def test_shares_are_smaller_the_more_processes_there_are(tiny_wan_folder: Path) -> None:
    alone, two, eight = (cost_of(count, tiny_wan_folder, batch=8, parallel=SHARDED) for count in (1, 2, 8))
    assert alone == cost_of(1, tiny_wan_folder, batch=8) and not alone.shards
    assert alone.held > two.held > eight.held and two.peak > eight.peak
    waiting = {"kind": "fsdp", "offload": "cpu"}
    assert cost_of(8, tiny_wan_folder, batch=8, parallel=waiting).held < eight.held


def test_whole_networks_take_a_share_of_the_batch(tiny_wan_folder: Path) -> None:
    assert cost_of(2, tiny_wan_folder, batch=4) == cost_of(1, tiny_wan_folder, batch=2)
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 4 clips equally"):
        cost_of(3, tiny_wan_folder, batch=4)


def test_sharding_is_offered_where_there_are_several(tiny_wan_folder: Path) -> None:
    recipe = recipe_of(tiny_wan_folder, "full", penalties=None)

    def offered(num_processes: int) -> list[str]:
        return [" ".join(settings) for settings, _ in remedies(recipe, 0, num_processes)]

    assert not any("parallel" in settings for settings in offered(1))
    exact = "stages.judged.accumulate=2 gradient_checkpointing=true average=cpu parallel.kind=fsdp"
    assert exact not in offered(2)  # a clip each is as few as there can be
    exact = exact.removeprefix("stages.judged.accumulate=2 ")
    assert exact in offered(2) and f"{exact} parallel.offload=cpu" in offered(2)


def test_what_cannot_be_sharded_is_refused() -> None:
    part: Any = SimpleNamespace(kinds=(nn.Linear,), guided_evaluations=2)
    with pytest.raises(ValueError, match=r"a part alone is trained .student\.only. are not sharded"):
        check_sharded(part, [])
    more_passes: Any = SimpleNamespace(kinds=None, guided_evaluations=4)
    check_sharded(more_passes, [Guidance.of(3.0)])
    with pytest.raises(ValueError, match=r"further passes where 3@0\.3-0\.9 guides"):
        check_sharded(more_passes, [Guidance.of("3@0.3-0.9")])
