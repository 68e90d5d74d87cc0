"""`fewstep demo` from its first step to its report, with a recipe of a few steps in place of minutes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from fewstep.commands import demo_speed, evaluate, run_stages
from fewstep.commands.demo_plan import Speed
from fewstep.commands.run_precision import resolve_precision
from fewstep.distill import recipe
from fewstep.distill.checkpoint import save_state
from fewstep.distill.packaged import RECIPES
from fewstep.distill.recipe import Recipe, RolloutData
from fewstep.distill.run_folder import RunFolder
from fewstep.eval.latency import benchmark
from fewstep.teacher.dataset.caption_files import read_prompts
from tests.commands.typed import fewstep

USUAL = Speed(train=0.9, guided=0.16, decode=1.0)  # seconds that the recipe's own numbers fit into ten minutes with
SLOW = Speed(train=9.0, guided=1.6, decode=10.0)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Few steps in place of minutes; `monkeypatch` and the list say otherwise. The machine is never timed."""
    (tmp_path / "prompts.txt").write_text("a ring\na large red box\n")
    overrides = [f"data.prompts={tmp_path / 'prompts.txt'}", "data.steps=2", "logging.prompts=[]", "device=cpu"]
    overrides += [f"stages.{i}.{setting}" for i in range(3) for setting in ("steps=1", "batch=2")]
    overrides.append("stages.2.objective.warmup=1")
    read_recipe = recipe.read_recipe
    monkeypatch.setattr(recipe, "read_recipe", lambda name, given=(): read_recipe(name, [*given, *overrides]))
    monkeypatch.setattr(demo_speed, "measure_speed", lambda plan: USUAL)
    monkeypatch.setattr("fewstep.commands.demo._TIMED_ROUNDS", 1)
    monkeypatch.setattr(benchmark, "BenchmarkPlan", partial(benchmark.BenchmarkPlan, warmup=1))
    return overrides


@pytest.mark.usefixtures("few_steps")
def test_the_demo_ends_with_a_verdict_and_a_report(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_command = evaluate.evaluate_command
    monkeypatch.setattr(
        evaluate, "evaluate_command", lambda *given, **named: evaluate_command(*given, **named | {"world_clips": 64})
    )
    code, output = fewstep("demo", "--out", tmp_path / "demo", "--num", 3)
    assert code == 0, output
    assert "At 4 steps the teacher is " in output and "with denoising " in output
    assert "10 minutes: 160 + 140 + 40 training steps on 192 prompts, 3 clips of each model; about " in output
    assert output.count("precision: float32") == 1
    results = json.loads((tmp_path / "demo" / "evaluation" / "results.json").read_text())
    assert [row["model"] for row in results["rows"]] == ["teacher-50", "real", "teacher-4", "regression-4", "student-4"]
    pairs = [(one["model"], one["other"]) for one in results["differences"]]
    assert pairs == [("regression-4", "teacher-50"), ("student-4", "teacher-50"), ("student-4", "regression-4")]
    assert (
        "compared with the regression that it began with (regression-4) on the same prompts and noise (3 clips)"
        in output
    )
    assert results["protocol"]["dtype"] == "float32"
    assert json.loads((tmp_path / "demo" / "benchmark.json").read_text())["protocol"]["dtype"] == "float32"
    page = (tmp_path / "demo" / "report.html").read_text("utf-8")
    assert "student-4" in page and "shapes-fd" in page


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Recipe]:
    """The recipes that the demo follows, which ends each time where training would begin."""
    followed = list[Recipe]()

    def stop(plan: Recipe, **shown: object) -> None:
        followed.append(resolve_precision(plan)[0])
        RunFolder(plan.out).begin(followed[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(run_stages, "follow_stages", stop)
    return followed


def steps(plan: Recipe) -> list[int]:
    return [stage.steps for stage in plan.stages]


def test_a_resumed_demo_keeps_what_it_chose(
    tmp_path: Path, trained: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a demo: [1] #2"  # what YAML would read as something else
    monkeypatch.setattr(demo_speed, "measure_speed", lambda plan: SLOW)
    assert fewstep("demo", "--out", out)[0] == 130
    monkeypatch.setattr(demo_speed, "measure_speed", lambda plan: pytest.fail("timed again"))
    code, output = fewstep("demo", "--out", out, "--minutes", 60)
    assert code == 130
    assert "was begun with: 40 + 35 + 10 training steps on 48 prompts, 16 clips of each model" in output
    assert steps(trained[0]) == steps(trained[1]) == [40, 35, 10]
    data = trained[1].data
    assert isinstance(data, RolloutData)
    assert read_prompts(data.prompts) == read_prompts(RECIPES / "shapes-prompts.txt")[:48]


def test_a_run_of_the_recipe_itself_can_become_the_demo(
    tmp_path: Path, trained: list[Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a demo that was begun before plans were kept."""
    monkeypatch.setattr(demo_speed, "measure_speed", lambda plan: pytest.fail("timed"))
    RunFolder(tmp_path).begin(recipe.read_recipe("shapes-demo", [f"out={tmp_path}", "precision=bfloat16"]))
    assert fewstep("demo", "--out", tmp_path)[0] == 130
    assert steps(trained[0]) == [160, 140, 40]


@pytest.mark.parametrize("settings", [["stages.0.steps=80"], ["seed=1"]])
def test_the_run_of_another_recipe_is_refused(tmp_path: Path, settings: list[str]) -> None:
    other = recipe.read_recipe("shapes-demo", [f"out={tmp_path}", "precision=float32", *settings])
    RunFolder(tmp_path).begin(other)
    save_state(tmp_path, {"stage": other.stages[0].name, "step": 1, "drawn": 0, "seconds": 1.0})
    code, output = fewstep("demo", "--out", tmp_path)
    assert code == 2 and f"was begun with another {settings[0].split('=')[0]}" in output


def test_no_plan_is_made_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_speed, "measure_speed", lambda plan: pytest.fail("timed"))
    (tmp_path / "file").write_text("")
    code, output = fewstep("demo", "--out", tmp_path / "file")
    assert code == 2 and "cannot be a folder" in output
    assert fewstep("demo", "--out", tmp_path / "demo", "--minutes", 0)[0] == 2


def test_the_probe_times_every_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_speed, "_BATCH", 2)
    monkeypatch.setattr(demo_speed, "_TIMES", 1)
    plan = recipe.read_recipe("shapes-demo", ["precision=float32", "device=cpu"])
    speed = demo_speed.measure_speed(plan)
    assert min(speed.train, speed.guided, speed.decode) > 0
