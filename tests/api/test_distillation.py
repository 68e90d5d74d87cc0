"""`fewstep.distill`: recipes built in Python, overrides, resuming, silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import fewstep
from fewstep.distill.recipe import kept_recipe, make_recipe
from tests.api.conftest import STAGES, tiny_recipe


def test_a_recipe_built_in_python_equals_the_one_that_is_read(
    tiny_wan_folder: Path, prompts: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = {
        "teacher": str(tiny_wan_folder), "device": "cpu", "logging": {"tracker": "none"},
        "data": {"kind": "rollouts", "prompts": str(prompts), "steps": 2},
        "stages": [stage | {"objective": {"kind": "progressive"}} for stage in STAGES],
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    read = fewstep.read_recipe(tmp_path / "tiny.yaml")
    built = tiny_recipe(tiny_wan_folder, prompts)
    assert built == read == make_recipe(values) == make_recipe(built) == fewstep.Recipe.model_validate(values)
    assert [stage.name for stage in built.stages] == ["2-step", "1-step"] and built.sha256() == read.sha256()


def test_packaged_recipes_come_back_whole() -> None:
    read = fewstep.read_recipe("shapes-4step")
    assert make_recipe(read) == read
    assert make_recipe(read, ["stages.4-step.lr=1e-4"]).stages[1].lr == 1e-4


def test_what_is_distilled_lies_in_the_folder_that_is_given_back(run: Path) -> None:
    assert sorted(path.name for path in (run / "stages").iterdir()) == ["1-step", "2-step"]
    assert kept_recipe(run).out == run and "fewstep.distill(" in (run / "log.txt").read_text()


def test_quiet_is_silent_and_a_finished_run_is_not_trained_again(
    run: Path, tiny_wan_folder: Path, prompts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "stages").rglob("*")}
    recipe = tiny_recipe(tiny_wan_folder, prompts)
    assert fewstep.distill(recipe, out=str(run), quiet=True) == run
    assert capfd.readouterr() == ("", "")
    assert before == {path: path.stat().st_mtime_ns for path in (run / "stages").rglob("*")}
    fewstep.distill(json.loads(recipe.model_dump_json()), out=run)
    assert "loading the teacher" in capfd.readouterr().out


def test_stages_are_chosen(tiny_wan_folder: Path, prompts: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny_wan_folder, prompts)
    run = fewstep.distill(recipe, out=tmp_path / "run", only_stages=["2-step"], quiet=True)
    assert [path.name for path in (run / "stages").iterdir()] == ["2-step"]
    assert "only_stages=['2-step']" in (run / "log.txt").read_text()
    for chosen, sentence in (("2-step", "pass a list"), ([], "pass a list"), (["8-step"], "there is no stage 8-step")):
        with pytest.raises(ValueError, match=sentence):
            fewstep.distill(recipe, out=tmp_path / "run", only_stages=chosen, quiet=True)
    with pytest.raises(ValueError, match="shapes-chain has no stages, so 2-step cannot be chosen"):
        fewstep.distill("shapes-chain", only_stages=["2-step"], quiet=True)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"stages.2-step.stepps": 3}, r"stages.0.stepps.*did you mean steps"),
        ({"stages.2-step.lr": "fast"}, r"stages.0.lr"),
        ({"stages.7-step.lr": 1.0}, r"stages.7-step does not exist"),
        ({"seed": -1}, r"seed"),
        ({"data": {"kind": "rollouts", "prompts": "missing.txt"}}, r"there is no missing.txt"),
        ({"out": "recipe.txt/run"}, r"recipe.txt"),
        ({"out": object()}, r"out is <object .* which no recipe can hold"),
    ],
)
def test_a_wrong_setting_is_one_sentence(
    settings: dict[str, Any],
    sentence: str,
    tiny_wan_folder: Path,
    prompts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.txt").write_text("")
    with pytest.raises(ValueError, match=sentence) as error:
        fewstep.distill(tiny_recipe(tiny_wan_folder, prompts, out=Path("run")), quiet=True, **settings)
    assert "\n" not in str(error.value) and "--" not in str(error.value)
    assert not (tmp_path / "run" / "stages").exists()


def test_no_such_recipe() -> None:
    with pytest.raises(ValueError, match="there is no recipe shapes-5step: pass a YAML file, or one of"):
        fewstep.distill("shapes-5step", quiet=True)
    with pytest.raises(ValueError, match="there is no recipe"):
        fewstep.distill(Path("/"), quiet=True)
    nothing: Any = None
    with pytest.raises(ValueError, match="recipe is None: pass a YAML file"):
        fewstep.distill(nothing, quiet=True)
