"""`fewstep report` of a real run: curves and sample clips without an evaluation, everything with one."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from fewstep.commands.report import read_run
from fewstep.eval.report.inputs import Judging
from tests.commands.typed import fewstep

STARTS = {"further": None, "anew": "base", "beside": "2-step"}  # stage -> what its `start` says


@pytest.fixture(scope="module")
def run(tiny_wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages; the gate of the second did not open."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "prompts.txt").write_text("a ring\na cross\n")
    shared = {"steps": 2, "batch": 2, "objective": {"kind": "progressive"}}
    stages = [
        shared | {"teacher_steps": 4, "student_steps": 2, "guidance": 2.0},
        shared | {"teacher_steps": 2, "student_steps": 1, "gate": {"metric": "endpoint_error", "at_most": 0.0}},
    ]
    recipe = {
        "teacher": str(tiny_wan_folder), "out": str(folder / "run"), "device": "cpu", "stages": stages, "seed": 7,
        "data": {"kind": "rollouts", "prompts": "prompts.txt", "steps": 2},
        "logging": {"tracker": "none", "every": 1, "prompts": ["a ring & <cross>"]},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    code, output = fewstep("run", folder / "tiny.yaml")
    assert code == 2 and "gate requires at most 0" in output
    return folder / "run"


def data_of(page: Path) -> dict[str, Any]:
    (content,) = re.findall(r'id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    data: dict[str, Any] = json.loads(content)
    return data


def test_a_run_without_an_evaluation_shows_its_curves_and_clips(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    code, output = fewstep("report", run, "--out", out)
    assert code == 0 and "report.html" in output
    page, data = out.read_text("utf-8"), data_of(out)
    assert "the gate of stage 1-step was not reached: endpoint_error is" in page
    assert f"fewstep evaluate {yaml.safe_load((run / 'recipe.yaml').read_text())['teacher']} {run}" in page
    assert "One run, of seed 7." in page
    assert [stage["name"] for stage in data["curves"][0]["stages"]] == ["2-step", "1-step"]
    assert [model["name"] for model in data["clip_sets"][0]["models"]] == ["2-step", "1-step"]
    assert data["clip_sets"][0]["prompts"] == ["a ring & <cross>"]


def test_an_evaluation_and_a_benchmark_in_the_run_are_found(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    rows = [
        {"model": "teacher", "role": "teacher", "steps": 4, "evaluations": 8, "metrics": {"fvd": {"value": 12.5}}},
        {"model": "one", "source": str(copy / "stages" / "1-step"), "steps": 1, "evaluations": 1},
    ]
    (copy / "evaluation").mkdir()
    (copy / "evaluation" / "results.json").write_text(json.dumps({"rows": rows, "prompts": ["a ring"]}))
    timed = [{"model": name, "denoise_seconds": s, "total_seconds": s + 1} for name, s in (("teacher", 8), ("one", 1))]
    (copy / "benchmark.json").write_text(json.dumps({"rows": timed, "fit": None}))
    assert fewstep("report", copy, "--out", tmp_path / "report.html")[0] == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "The 1-step student is 8× faster at denoising (ideal 8×) and 4.5× from prompt to clip." in page
    assert "fewstep evaluate" not in page and "fewstep benchmark" not in page
    (copy / "benchmark.json").unlink()
    for extra in ([], ["--evaluation", copy / "evaluation"]):  # as an argument, as an option: the same page
        folders = [copy / "evaluation"] if not extra else []
        assert fewstep("report", *folders, *extra, "--out", tmp_path / "report.html")[0] == 0
        assert f"fewstep benchmark one={copy}/stages/1-step" in (tmp_path / "report.html").read_text("utf-8")


def test_what_it_cannot_use_is_said_in_a_sentence(run: Path, tmp_path: Path) -> None:
    assert "neither a run (it has no recipe.yaml) nor an evaluation" in fewstep("report", tmp_path)[1]
    assert "name a run directory" in fewstep("report")[1]
    assert "there is no file" in fewstep("report", run, "--benchmark", tmp_path / "none.json")[1]
    code, output = fewstep("report", run, "--out", tmp_path / "none" / "report.html")
    assert code == 2 and "make it first" in output
    (tmp_path / "recipe.yaml").write_text("stages: 3\n")
    code, output = fewstep("report", tmp_path)
    assert code == 2 and "is not the recipe that `fewstep run` keeps" in output


def test_a_stage_says_what_it_begins_with_and_what_it_judges(run: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["stages"][1]["objective"] = {"kind": "adversarial", "conditional": False, "judges": "what will come"}
    recipe["stages"] += [recipe["stages"][1] | {"name": name, "start": start} for name, start in STARTS.items()]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    stages = read_run(tmp_path).stages
    assert [stage.start for stage in stages] == [None, "2-step", "1-step", None, "2-step"]
    assert stages[0].judging is None and stages[1].judging == Judging(judges="what will come", conditional=False)
    code, _ = fewstep("report", tmp_path, "--out", tmp_path / "report.html")
    assert code == 0 and "what will come" in (tmp_path / "report.html").read_text("utf-8")
    recipe["stages"][1]["objective"]["probe"] = "many"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert "is not the recipe that `fewstep run` keeps" in fewstep("report", tmp_path)[1]
