"""Which stage of a run is meant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from fewstep.student import loading


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three finished stages, whose files' times say nothing: they were copied."""
    steps = {"8-step": 8, "4-step": 4, "4-step-relaxed": 4}
    monkeypatch.setattr(loading, "read_contract", lambda folder: type("Contract", (), {"steps": steps[folder.name]}))
    for age, name in enumerate(steps):
        file = tmp_path / "stages" / name / "contract.json"
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        os.utime(file, (1000 - age, 1000 - age))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"stages": [{"name": name} for name in steps]}))
    return tmp_path


def test_the_last_stage_is_the_recipes_last(run: Path) -> None:
    assert loading.find_stage(run).name == "4-step-relaxed"
    assert loading.find_stage(run, 4).name == "4-step-relaxed"
    assert loading.find_stage(run, 8).name == "8-step"


def test_without_a_recipe_the_last_stage_is_the_newest(run: Path) -> None:
    (run / "recipe.yaml").unlink()
    assert loading.find_stage(run, 4).name == "4-step"
