"""What a run is said to write is what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils._pytree import tree_iter

from fewstep.commands.run_cost import _held
from fewstep.distill.disk_use import checkpoints_gib, clips_gib, free_gib, student_gib, written_gib
from fewstep.distill.recipe import Recipe
from fewstep.distill.settings import DatasetData
from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.limits import GIB
from tests.distill.untrained_stage import ADVERSARIAL, one_stage, untrained

TRAINED = ADVERSARIAL | {"discriminator": {"width": 8, "backbone": "trained"}}
SIZE = VideoSize(9, 16, 16)


def changed(recipe: Recipe, **settings: Any) -> Recipe:
    return Recipe.model_validate(recipe.model_dump() | {"precision": "float32"} | settings)


@pytest.mark.parametrize("train", ["full", "lora"])
@pytest.mark.parametrize(
    ("objective", "settings"), [(None, {}), (None, {"average": "cpu"}), (ADVERSARIAL, {}), (TRAINED, {})]
)
def test_checkpoints_and_students_have_the_bytes_that_are_planned(
    tiny_teacher: Teacher, tmp_path: Path, train: str, objective: dict[str, Any] | None, settings: dict[str, Any]
) -> None:
    recipe = changed(one_stage(objective, train), **settings)
    trainer = untrained(tiny_teacher, recipe)
    trainer.one_step()
    own = _held(recipe, tiny_teacher)[1]
    written = sum(x.nbytes for x in tree_iter(trainer.trained.tensors()) if isinstance(x, Tensor)) / GIB
    assert checkpoints_gib(recipe, 1, own.shares, 1) == pytest.approx(2 * written, rel=0.02)
    trainer.roles.save(tmp_path)
    assert student_gib(recipe, 1, own.num_trained, own.num_adapters) == pytest.approx(written_gib(tmp_path), rel=0.25)


def test_more_checkpoints_are_kept_where_students_are_rolled_back_and_networks_sharded(tiny_teacher: Teacher) -> None:
    recipe = changed(one_stage())
    shares = _held(recipe, tiny_teacher)[1].shares
    one = checkpoints_gib(recipe, 1, shares, 1) / 2
    rolled_back = changed(recipe, watch={"on_trigger": "roll_back"})
    assert checkpoints_gib(rolled_back, 1, shares, 1) == pytest.approx(4 * one)
    sharded = changed(recipe, parallel={"kind": "fsdp"})
    assert checkpoints_gib(sharded, 1, shares, 1) == pytest.approx(2 * one)
    assert checkpoints_gib(sharded, 1, shares, 2) == pytest.approx(3 * one)


def test_clips_are_counted_with_their_texts_and_not_where_they_are_there(tiny_teacher: Teacher) -> None:
    recipe, numbers = one_stage(), 16 * 3 * 2 * 2
    assert tiny_teacher.latent_shape(*SIZE) == (16, 3, 2, 2)
    assert clips_gib(recipe, tiny_teacher, {SIZE: 5}, 100) * GIB == pytest.approx(5 * 2 * (numbers + 100))
    made = recipe.model_copy(update={"data": DatasetData(kind="dataset", folder=Path("made"))})
    assert clips_gib(made, tiny_teacher, {SIZE: 5}, 100) == 0


def test_a_folder_that_is_not_there_holds_nothing_and_its_disk_is_known(tmp_path: Path) -> None:
    assert written_gib(tmp_path / "none") == 0
    assert free_gib(tmp_path / "none" / "below") == pytest.approx(free_gib(tmp_path), rel=0.01)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "a.json").write_text(json.dumps([0] * 100))
    assert written_gib(tmp_path) * GIB == 300
