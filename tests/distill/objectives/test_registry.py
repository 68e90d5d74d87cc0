"""A kind of objective that is registered needs no other file: recipe, schema, costs, runs and tables know it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml

from fewstep.commands.report import read_run
from fewstep.commands.shapes.entries import students_of
from fewstep.distill.calls import Calls
from fewstep.distill.estimate import relay_work, stage_calls, steady_calls
from fewstep.distill.objectives.base import STUDENT
from fewstep.distill.objectives.objective_settings import ObjectiveSettings
from fewstep.distill.objectives.progressive import Progressive
from fewstep.distill.objectives.registry import OBJECTIVES, register
from fewstep.distill.recipe import Recipe, read_recipe, recipe_schema
from fewstep.distill.step_calls import StepCalls, clips_of
from fewstep.distill.step_time import StageTime, expected_clips
from fewstep.teacher.base import Teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.schedule import NoiseSchedule
from tests.commands.typed import fewstep
from tests.distill.objectives.matching import FAKE, Matching
from tests.distill.test_step_time import watching
from tests.distill.untrained_stage import Ticks, one_stage, untrained
from tests.recipes.test_recipes import without_table

ROOT = Path(__file__).parents[3]
MATCHING = {"kind": "matching"}


@pytest.fixture(autouse=True)
def matching() -> Iterator[None]:
    register(Matching)
    yield
    del OBJECTIVES["matching"]


@pytest.fixture
def path(tmp_path: Path, tiny_wan_folder: Path) -> Path:
    """A relay of two regressions, and the new objective on the second student."""
    (tmp_path / "prompts.txt").write_text("a ring\na box\n")
    short: dict[str, Any] = {"steps": 2, "batch": 2}
    second = short | {"teacher_steps": 4, "student_steps": 2}
    values = {
        "teacher": str(tiny_wan_folder), "out": str(tmp_path / "run"), "device": "cpu", "precision": "float32",
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 4},
        "logging": {"tracker": "none", "every": 1},
        "stages": [
            short | {"teacher_steps": 8, "student_steps": 4, "guidance": 2, "objective": {"kind": "progressive"}},
            second | {"objective": {"kind": "progressive"}},
            second | {"steps": 5, "objective": MATCHING},
        ],
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def refused(path: Path, *settings: str) -> str:
    with pytest.raises(ValueError) as caught:
        read_recipe(path, settings)
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_recipe_may_name_it(path: Path) -> None:
    plan = read_recipe(path, ["stages.2.objective.warmup=7"])
    assert plan.stages[2].objective == Matching(warmup=7)
    assert [stage.name for stage in plan.stages] == ["4-step", "2-step", "2-step-matching"]
    assert [stage.betas for stage in plan.stages] == [(0.9, 0.999), (0.9, 0.999), (0.5, 0.9)]
    assert read_recipe(path, ["stages.2.betas=[0.1, 0.2]"]).stages[2].betas == (0.1, 0.2)
    assert Recipe.model_validate(yaml.safe_load(plan.dump_yaml())) == plan
    assert plan.model_copy(deep=True).stages[2].objective == Matching(warmup=7)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("stages.2.objective.warm=1", "stages.2.objective.warm is not a setting: did you mean warmup?"),
        ("stages.2.objective.kind=mse", "stages.2.objective.kind is 'mse': use adversarial, matching or progressive"),
        ("stages.2.objective.lr=slow", "stages.2.objective.lr is 'slow': input should be a valid number"),
        ("stages.2.objective={}", "stages.2.objective.kind is missing: use adversarial, matching or progressive"),
        ("stages.2={teacher_steps: 4, student_steps: 2, teacher: base, guidance: 2, objective: {kind: matching}}",
         "stages.2: matching asks its supervisor without guidance"),
    ],
)  # fmt: skip
def test_mistakes_in_it_are_told(path: Path, setting: str, sentence: str) -> None:
    assert refused(path, setting).startswith(sentence)


def test_without_its_registration_there_is_no_such_kind(path: Path) -> None:
    del OBJECTIVES["matching"]
    facts = refused(path)
    register(Matching)
    assert facts.startswith("stages.2.objective.kind is 'matching': use adversarial or progressive")


def test_the_schema_and_the_page_on_recipes_ask_for_it() -> None:
    schema = recipe_schema()
    kinds = schema["$defs"]["Stage"]["properties"]["objective"]["discriminator"]["mapping"]
    assert set(kinds) == {"adversarial", "matching", "progressive"}
    described = schema["$defs"]["Matching"]["properties"]
    assert described["warmup"]["description"] == "Its steps before the student moves."
    page = (ROOT / "docs" / "writing-a-recipe.md").read_text("utf-8")
    missing = without_table(page)
    assert (
        list(missing) == ["Matching"]
        and "| `warmup` | `3` | Its steps before the student moves. |" in missing["Matching"]
    )
    assert not without_table(f"{page}\n### objective, kind: matching\n\n{missing['Matching']}\n")


def test_tables_have_a_phase_for_it(path: Path) -> None:
    plan = read_recipe(path)
    assert [plan.phases_of(i) for i in range(3)] == [("mse",), ("start",), ("matched", "final")]


FLOW = NoiseSchedule("flow", "flow", shift=3.0)


def test_what_it_costs_is_counted(path: Path) -> None:
    stage = read_recipe(path).stages[2]
    steps, turns, clips = 5, 5 + 3, 2
    expected = Calls(
        {"supervisor": clips * steps, "student": clips * (turns + steps), FAKE: clips * (turns + steps)},
        {"student": clips * steps, FAKE: clips * turns},
    )
    assert stage_calls(stage, FLOW) == expected
    assert stage_calls(stage, FLOW, gradient_checkpointing=True).forward["student"] == clips * (turns + 2 * steps)
    (work,) = relay_work(read_recipe(path), FLOW, lambda name: name != "2-step-matching")
    assert (work.each, work.whole) == (clips * (1 + 2 + 2 + 2 + 2), expected.work)


@pytest.mark.parametrize("kind", sorted({*OBJECTIVES, "matching"}))
def test_every_kind_makes_the_calls_and_trains_the_parameters_that_it_says(tiny_teacher: Teacher, kind: str) -> None:
    trainer = untrained(tiny_teacher, one_stage({"kind": kind}))
    stage, calls = (
        trainer.stage.model_copy(update={"steps": trainer.stage.objective.period}),
        StepCalls(trainer, Ticks()),
    )
    with calls.counting():
        for _ in range(stage.steps):
            trainer.one_step()
    assert clips_of(calls.counts, gradient_checkpointing=False) == steady_calls(stage, tiny_teacher.schedule)
    held = stage.objective.holds(outline_teacher(tiny_teacher.folder).teacher.network_at(1.0))
    trained = {
        name: sum(p.numel() for p in one.parameters)
        for name, one in trainer.optimizer_groups.items()
        if name != STUDENT
    }
    assert {name: one.trained for name, one in held.items() if one.trained} == trained


@pytest.mark.parametrize("accumulate", [1, 2])
def test_its_steps_make_the_calls_that_it_says(tiny_teacher: Teacher, accumulate: int) -> None:
    trainer, clock = untrained(tiny_teacher, one_stage(MATCHING, accumulate=accumulate)), Ticks()
    calls = StepCalls(trainer, clock)
    with calls.counting():
        trainer.one_step()
    counted = clips_of(calls.counts, gradient_checkpointing=False)
    stage = trainer.stage.model_copy(update={"steps": 1})
    assert counted == stage_calls(stage.model_copy(update={"objective": Matching(warmup=0)}), tiny_teacher.schedule)
    measured = StageTime(trainer, clock)
    measured.run(2, 1, watching)
    row = measured.row()
    assert row["clips"] == row["expected_clips"] == expected_clips(stage, tiny_teacher.schedule, False)
    assert set(row["bare"]) == {"supervisor", "student", FAKE, "adam"} and row["bare"][FAKE] > 0
    assert set(row["turns"]) == {"lesson", "student", FAKE} and row[f"{FAKE}_seconds"] > 0


def test_a_dry_run_tells_calls_and_memory(path: Path, tiny_teacher: Teacher) -> None:
    code, output = fewstep("run", path, "--dry-run")
    assert code == 0, output
    assert re.search(rf"teacher calls +┃ +student forward +┃ +and backward +┃ +{FAKE} forward +┃ +and backward", output)
    assert cells(output, "2-step-matching", "10") == ["10", "26", "10", "26", "16"]
    whole = sum(parameter.numel() for parameter in tiny_teacher.network_at(1.0).parameters()) * 4 / 2**30
    assert cells(output, "2-step-matching", FAKE) == [FAKE, *(f"{n * whole:.3f}" for n in (1, 1, 2, 0))]


def cells(output: str, stage: str, first: str) -> list[str]:
    """A row of a table: what stands behind the stage's name."""
    rows = ([cell.strip() for cell in line.strip("│ ").split("│")] for line in output.splitlines())
    return next(row[1:] for row in rows if row[:2] == [stage, first])


def test_it_runs_and_its_run_is_read(path: Path, tmp_path: Path, tiny_teacher: Teacher) -> None:
    code, output = fewstep("run", path, "--set", "stages.2.steps=2")
    assert code == 0, output
    assert "2-step-matching: its first step trains the second network for 3 turns" in output
    assert "2-step-matching: measuring how far it is from data" in output
    run = tmp_path / "run"
    folders = [run / "stages" / name for name in ("4-step", "2-step", "2-step-matching")]
    result = json.loads((folders[2] / "result.json").read_text())
    assert result["far"] > 0 and result["far"] != result["far_before"]
    points = [json.loads(line) for line in (run / "curves" / "2-step-matching.jsonl").read_text().splitlines()]
    assert len(points) == 2 and all(point[f"{FAKE}/loss"] > 0 for point in points)
    entries = students_of(run, folders, tiny_teacher, leave_out_starts=True)
    assert [(entry.name, entry.phase) for entry in entries] == [
        ("4-step", "mse"), ("2-step-matching", "matched"), ("2-step-matching", "final"),
    ]  # fmt: skip
    stages = read_run(run).stages
    assert [(stage.objective, stage.regression, stage.judging) for stage in stages[1:]] == [
        ("progressive", True, None), ("matching", False, None),
    ]  # fmt: skip
    code, output = fewstep("report", run, "--out", tmp_path / "report.html")
    assert code == 0 and "matching" in (tmp_path / "report.html").read_text("utf-8"), output


def test_adam_gets_its_betas(tiny_teacher: Teacher) -> None:
    trainer = untrained(tiny_teacher, one_stage(MATCHING))
    (group,) = trainer.optimizer_groups["student"].optimizer.param_groups
    assert group["betas"] == (0.5, 0.9)
    before = [parameter.detach().clone() for parameter in trainer.roles.parameters.values()]
    trainer.one_step()
    assert not all(map(torch.equal, before, trainer.roles.parameters.values()))


def test_a_benchmark_of_training_has_columns_for_it(path: Path, tmp_path: Path) -> None:
    quick = ("--repetitions", 1, "--warmup", 1, "--device", "cpu", "--stages", "2-step-matching")
    code, output = fewstep("benchmark", "--training", path, *quick, "--out", tmp_path / "training.json")
    assert code == 0, output
    heading, _, row = (tmp_path / "training.md").read_text().splitlines()
    facts = dict(zip(heading.split("|"), row.split("|"), strict=True))
    assert float(facts[f" {FAKE} "]) > 0 and float(facts[f" {FAKE} steps "]) > 0 and " discriminator " not in facts


def test_what_has_no_default_must_be_said() -> None:
    class Unsaid(ObjectiveSettings):
        kind: Literal["unsaid"] = "unsaid"

    class Second(Progressive):
        """Another one of the kind."""

    class Kindless(Progressive):
        kind: str  # type: ignore[assignment]

    with pytest.raises(TypeError, match="Unsaid does not say its build, calls, holds, default_betas"):
        register(Unsaid)  # type: ignore[type-abstract]
    with pytest.raises(TypeError, match="Progressive is of the kind progressive already"):
        register(Second)
    with pytest.raises(TypeError, match="Kindless has no kind"):
        register(Kindless)


def test_no_other_file_knows_a_kind() -> None:
    """But for the heads that are trained anew, which are a part of one, and the demo's, which times a regression."""
    may = {"distill/fresh_heads.py", "distill/conversion.py", "src/fewstep/commands/demo_speed.py"}
    files = [
        file
        for folder in ("distill", "eval", "student", "src/fewstep/commands")
        for file in (ROOT / folder).rglob("*.py")
    ]
    known = re.compile(
        r"objectives\.(adversarial|progressive)|isinstance\([^)]*(Adversarial|Progressive)|kind\W+== *.(adv|prog)"
    )
    strays = {str(file.relative_to(ROOT)) for file in files if known.search(file.read_text("utf-8"))}
    assert {stray for stray in strays if not stray.startswith("distill/objectives/")} == may
