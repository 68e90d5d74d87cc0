"""`fewstep recipes`: what ships is listed, shown and copied, and a copy is followed as the packaged recipe is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewstep.distill.packaged import RECIPES, packaged_names
from fewstep.distill.recipe import read_recipe
from tests.commands.typed import fewstep


def test_the_list_has_every_recipe_that_can_be_followed_with_what_it_does() -> None:
    code, output = fewstep("recipes", "list")
    assert code == 0
    assert [name for name in packaged_names() if f" {name} " not in output] == []
    assert {"shapes-4step", "shapes-chain", "wan-decoder"} <= set(packaged_names())
    assert "Four steps from Wan 2.1 1.3B (arXiv 2503.20314) as a LoRA" in output
    assert "shapes-teacher" not in output  # `fewstep run` does not follow it


def test_a_recipe_is_shown_as_it_is() -> None:
    assert fewstep("recipes", "show", "shapes-4step") == (0, (RECIPES / "shapes-4step.yaml").read_text("utf-8"))


def test_a_copy_is_the_same_recipe_with_its_schema_beside_it(tmp_path: Path) -> None:
    code, output = fewstep("recipes", "copy", "shapes-4step", tmp_path / "mine")
    assert (code, output) == (0, f"{tmp_path / 'mine' / 'shapes-4step.yaml'}\n")
    assert read_recipe(output.strip()) == read_recipe("shapes-4step")
    assert (tmp_path / "mine" / "schema.json").read_bytes() == (RECIPES / "schema.json").read_bytes()
    assert fewstep("recipes", "copy", "shapes-4step", tmp_path / "mine")[0] == 0  # again: nothing is lost


def test_a_recipe_without_a_schema_is_copied_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fewstep("recipes", "copy", "shapes-chain.yaml") == (0, "shapes-chain.yaml\n")
    assert [path.name for path in tmp_path.iterdir()] == ["shapes-chain.yaml"]


def test_a_name_of_a_file_makes_no_folder(tmp_path: Path) -> None:
    code, output = fewstep("recipes", "copy", "shapes-4step", tmp_path / "mine.yaml")
    assert code == 2 and "mine.yaml is the name of a file: pass a folder, in which the copy is called shapes-" in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["shapes-4step.yaml", "schema.json"])
def test_what_a_user_has_edited_is_never_written_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    code, output = fewstep("recipes", "copy", "shapes-4step", tmp_path)
    assert code == 2 and f"{tmp_path / name} is there and is not the packaged file: delete it" in output
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("verb", ["show", "copy"])
@pytest.mark.parametrize("name", ["shapes-3step", "../recipes/shapes-4step", "shapes-teacher"])
def test_an_unknown_name_is_refused_in_one_sentence(verb: str, name: str) -> None:
    code, output = fewstep("recipes", verb, name)
    assert code == 2 and output.startswith(f"there is no packaged recipe {name}: choose among animatediff-lightning, ")


def test_a_folder_that_is_a_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, output = fewstep("recipes", "copy", "shapes-4step", tmp_path / "file")
    assert code == 2 and str(tmp_path / "file") in output and len(output.splitlines()) == 1


def test_a_shell_completes_verbs_and_recipes() -> None:
    def completed(words: str, number: int) -> list[str]:
        arguments = {"_FEWSTEP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        command = (str(Path(sys.executable).with_name("fewstep")),)
        done = subprocess.run(command, env=os.environ | arguments, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert set(completed("fewstep re", 1)) == {"recipes", "report"}
    assert "shapes-lora-4step" in completed("fewstep recipes show shapes-l", 3)
