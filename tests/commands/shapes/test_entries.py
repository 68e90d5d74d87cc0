"""What a table of students says of a run's stages."""

from __future__ import annotations

import json
from pathlib import Path

from fewstep.commands.shapes.entries import needed_seconds
from fewstep.distill.recipe import Recipe
from fewstep.distill.run_folder import RunFolder

SHARED: dict[str, object] = {"steps": 1, "objective": {"kind": "progressive"}}
STAGES: list[dict[str, object]] = [
    {"teacher_steps": 8, "student_steps": 4},
    {"teacher_steps": 4, "student_steps": 2},
    {"teacher_steps": 2, "student_steps": 1},
    {"name": "other-2-step", "start": "2-step", "teacher": "4-step", "teacher_steps": 4, "student_steps": 2},
    {"name": "by-other", "start": "1-step", "teacher": "other-2-step", "teacher_steps": 2, "student_steps": 1},
]


def test_seconds_are_those_of_every_stage_that_a_student_needs_each_once(tmp_path: Path) -> None:
    recipe = Recipe.model_validate(
        {
            "teacher": "shapes",
            "out": str(tmp_path),
            "data": {"kind": "rollouts", "prompts": "prompts.txt"},
            "stages": [SHARED | stage for stage in STAGES],
        }
    )
    folder = RunFolder(tmp_path)
    for index, stage in enumerate(recipe.stages):
        folder.stage(stage.name).mkdir(parents=True)
        (folder.stage(stage.name) / "result.json").write_text(json.dumps({"train_seconds": 10.0**index}))
    assert needed_seconds(recipe, folder, 2) == 111  # without what branches off
    assert needed_seconds(recipe, folder, 3) == 1011  # its supervisor is what its start began as
    assert needed_seconds(recipe, folder, 4) == 11111  # its supervisor is of another branch
