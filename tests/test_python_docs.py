"""The code in docs/python.md runs, in order, on a tiny random pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import fewstep
from tests.api.conftest import tiny_recipe

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_every_block_of_the_page_runs(
    tiny_wan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "Wan2.1-T2V-1.3B-Diffusers").symlink_to(tiny_wan_folder)
    (tmp_path / "prompts.txt").write_text("a ring\na cross\na box\n")
    recipe = tiny_recipe(tiny_wan_folder, tmp_path / "prompts.txt")
    first, *others = recipe.stages
    mine = recipe.model_copy(update={"stages": [first.model_copy(update={"name": "4-step"}), *others]})  # its name
    mine.save(tmp_path / "mine.yaml")
    fewstep.distill(recipe, out="runs/wan-4step", quiet=True)
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(block, names)
    assert len(BLOCKS) == 6 and (tmp_path / "cat.gif").exists() and names["pipe"].contract.weights == "lora"
    assert "the student is sampled with num_inference_steps=1, not 50" in capsys.readouterr().out
