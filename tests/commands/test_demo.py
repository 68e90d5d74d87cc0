"""`fewstep demo` from its first step to its report, with a recipe of a few steps in place of minutes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from fewstep.distill import recipe
from fewstep.distill.recipe import Recipe
from tests.commands.typed import fewstep


def test_the_demo_ends_with_a_verdict_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.txt").write_text("a ring\na large red box\n")
    tiny = [f"data.prompts={tmp_path / 'prompts.txt'}", "data.steps=2", "logging.prompts=[]", "device=cpu"]
    tiny += [f"stages.{i}.{setting}" for i in range(3) for setting in ("steps=1", "batch=2")]
    read_recipe = recipe.read_recipe

    def read_tiny(name: str, overrides: Sequence[str]) -> Recipe:
        return read_recipe(name, [*overrides, *tiny, "stages.2.objective.warmup=1"])

    monkeypatch.setattr(recipe, "read_recipe", read_tiny)
    code, output = fewstep("demo", "--out", tmp_path / "demo", "--num", 3)
    assert code == 0, output
    assert "At 4 steps the teacher is " in output and "with denoising " in output
    rows = json.loads((tmp_path / "demo" / "evaluation" / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["teacher-50", "real", "teacher-4", "student-4"]
    page = (tmp_path / "demo" / "report.html").read_text("utf-8")
    assert "student-4" in page and "shapes-fd" in page
