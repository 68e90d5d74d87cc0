"""A run's folder: begun with one recipe, and finished stages appear whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewstep.distill.recipe import Recipe, read_recipe
from fewstep.distill.run_folder import RunFolder


def recipe(*overrides: str) -> Recipe:
    return read_recipe("shapes-4step", overrides)


def test_the_resolved_recipe_is_kept(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run").begin(recipe("stages.1.lr=1e-3"))
    assert read_recipe(tmp_path / "run" / "recipe.yaml") == recipe("stages.1.lr=1e-3")


def test_what_changes_nothing_may_change(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(recipe())
    moved = tmp_path / "prompts.txt"
    moved.write_text("a ring\n")
    folder.begin(recipe("logging.every=3", "device=cpu", f"data.prompts={moved}", "gradient_checkpointing=true"))
    for change, name in (
        ("seed=1", "seed"),
        ("stages.0.steps=9", r"stages\.0\.steps"),
        ("data.steps=16", r"data\.steps"),
        ("stages.2.objective.r1=3", r"stages\.2\.objective\.r1"),
    ):
        with pytest.raises(ValueError, match=f"begun with another {name}: "):
            folder.begin(recipe(change))


def test_stages_may_come_to_the_end_but_never_go(tmp_path: Path) -> None:
    whole = recipe()
    fewer = whole.model_copy(update={"stages": whole.stages[:-1]})
    folder = RunFolder(tmp_path / "run")
    folder.begin(fewer)
    folder.begin(whole)
    assert read_recipe(tmp_path / "run" / "recipe.yaml") == whole
    with pytest.raises(ValueError, match="begun with another stages: "):
        folder.begin(fewer)


def test_a_stage_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "state.pt").write_bytes(b"")

    def fail(part: Path) -> None:
        (part / "weights").write_text("half")
        raise OSError("no room")

    with pytest.raises(OSError):
        folder.finish("a", fail, {})
    assert not folder.stage("a").exists() and not folder.finished("a") and (tmp_path / "state.pt").exists()

    def write(part: Path) -> None:
        assert not any(part.iterdir())
        (part / "contract.json").write_text("{}")

    folder.finish("a", write, {"steps": 3})
    assert folder.finished("a") and folder.result("a") == {"steps": 3} and not (tmp_path / "state.pt").exists()
