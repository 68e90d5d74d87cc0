"""Which stages of which runs a table of students holds, and what their runs say of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.distill.recipe import Recipe
    from fewstep.distill.run_folder import RunFolder
    from fewstep.eval.shapes.relay_entry import RelayEntry
    from fewstep.teacher.base import Teacher


def chosen_stages(runs: Sequence[Path], names: Sequence[str] | None) -> dict[Path, list[Path]]:
    """The folders of runs' finished stages, in their recipes' order: of these names, or all.

    Raises ValueError when there is no run, a run has no finished stage, or no run has one of a name.
    """
    finished = {run: _finished(run) for run in runs}
    if names is None:
        return finished
    there = list(dict.fromkeys(folder.name for stages in finished.values() for folder in stages))
    for name in names:
        if name not in there:
            raise ValueError(
                f"--stages names {name}, and no run has a finished stage of that name: choose among {', '.join(there)}"
            )
    return {run: [folder for folder in stages if folder.name in names] for run, stages in finished.items()}


def students_of(run: Path, stages: Sequence[Path], teacher: Teacher, leave_out_starts: bool) -> list[RelayEntry]:
    """Entries of these stages of a run, a row each, and one more for the last of a line.

    Stages that others of the same step count start from are on the way, and may be left out.
    """
    from fewstep.distill.recipe import kept_recipe
    from fewstep.distill.run_folder import RunFolder
    from fewstep.eval.shapes.relay_entry import RelayEntry
    from fewstep.student.load_student import load_student
    from fewstep.student.weights import weights_sha256

    recipe, folder, entries = kept_recipe(run), RunFolder(run), []
    for index, stage in enumerate(recipe.stages):
        if folder.stage(stage.name) not in stages:
            continue
        # a row for its own phase, and one more as the last of its line; `start` is a stage on the way
        phases = [phase for phase in recipe.phases_of(index) if not (leave_out_starts and phase == "start")]
        if not phases:
            continue
        student = load_student(folder.stage(stage.name), teacher=teacher)
        facts: dict[str, Any] = {
            "steps": stage.student_steps,
            "guidance": student.contract.baked_guidance,
            "train_seconds": needed_seconds(recipe, folder, index),
            "name": stage.name,
            "run": str(run),
            "sha256": weights_sha256(folder.stage(stage.name)),
            "recipe_seed": recipe.seed,
            "recipe_sha256": line_sha256(recipe, index),
            **_fresh_heads(folder.result(stage.name), folder.stage(stage.name) / "result.json"),
        }
        entries += [RelayEntry(student=student, phase=phase, **facts) for phase in phases]
    return entries


def line_sha256(recipe: Recipe, index: int) -> str:
    """Of all settings that make the student of stage `index`, from the teacher on, but the recipe's seed.

    Where data lies does not count but by the folder's own name, nor do gates, logging, or stages outside the line.
    """
    # without defaults, so that a setting which is new in a later version changes no hash; kinds are defaults, too
    named = {"teacher", "bases", "precision", "size", "data", "student", "optimizer", "stages"}
    named |= {"shift", "embedded_guidance", "control_scale"}
    settings = recipe.model_dump(mode="json", include=named, exclude_defaults=True)
    for name in ("folder", "prompts"):
        if isinstance(settings["data"].get(name), str):
            settings["data"][name] = Path(settings["data"][name]).name
    under = recipe.stages_under([recipe.stages[index].name])
    line = [i for i, stage in enumerate(recipe.stages) if stage.name in under]
    settings["stages"] = [{k: v for k, v in settings["stages"][i].items() if k != "gate"} for i in line]
    settings["kinds"] = [recipe.data.kind, *(recipe.stages[i].objective.kind for i in line)]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def needed_seconds(recipe: Recipe, folder: RunFolder, index: int) -> float:
    """Of the training of all stages that a student needs, its supervisors' included: what it costs to have it."""
    under = recipe.stages_under([recipe.stages[index].name])
    return sum(float(folder.result(name)["train_seconds"]) for name in under)


def _fresh_heads(result: Mapping[str, Any], path: Path) -> dict[str, float | None]:
    """Held-out accuracies of heads trained afresh, where a stage measured them."""
    accuracies = {"fresh_before": result.get("fresh_heads_before"), "fresh_after": result.get("fresh_heads")}
    for value in accuracies.values():
        if value is not None and not isinstance(value, int | float):
            raise ValueError(f"{path} has {value!r} for the accuracy of fresh heads, which is not a number: restore it")
    return accuracies


def _finished(run: Path) -> list[Path]:
    """The folders of a run's finished stages. Raises ValueError when there is no run, or none is finished."""
    from fewstep.distill.recipe import kept_recipe
    from fewstep.distill.run_folder import RunFolder

    if not (run / "recipe.yaml").is_file():
        raise ValueError(f"{run} is not a run (it has no recipe.yaml): pass the folder of a `fewstep run`")
    folder = RunFolder(run)
    names = [stage.name for stage in kept_recipe(run).stages if folder.finished(stage.name)]
    if not names:
        raise ValueError(f"{run} has no finished stage yet: run its recipe to the end of a stage")
    for name in names:
        if "train_seconds" not in folder.result(name):
            raise ValueError(f"{folder.stage(name) / 'result.json'} has no train_seconds: restore it")
    return [folder.stage(name) for name in names]
