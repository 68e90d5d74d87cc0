"""The recipes that ship with fewstep, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import yaml

from fewstep.teacher.yaml_text import load_yaml

RECIPES = Path(str(files("fewstep.recipes"))).resolve()


def recipe_names() -> list[str]:
    """The packaged recipes of distillations, without suffix; recipes of teachers are not among them."""
    return _with("stages")


def chain_names() -> list[str]:
    """The packaged recipes of chains, without suffix."""
    return _with("chain")


def decoder_names() -> list[str]:
    """The packaged recipes of small decoders, without suffix."""
    return _with("decoder")


def _with(setting: str) -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml") if f"\n{setting}:" in path.read_text("utf-8"))


def find_recipe(path: str | Path) -> Path:
    """The recipe's file: `path` itself, else the packaged one of that name. Raises ValueError when there is none."""
    asked = Path(path).expanduser()
    if asked.is_file():
        return asked.resolve()
    packaged = RECIPES / f"{asked.name.removesuffix('.yaml')}.yaml"
    if len(asked.parts) == 1 and packaged.is_file():
        return packaged
    known = ", ".join([*recipe_names(), *chain_names(), *decoder_names()])
    raise ValueError(f"there is no recipe {path}: pass a YAML file, or one of {known}")


def recipe_settings(path: str | Path) -> frozenset[str]:
    """The names at the top of a recipe, which tell what it is of; none where it is no YAML.

    Raises ValueError when there is no such recipe.
    """
    try:
        values = load_yaml(find_recipe(path).read_text("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return frozenset()
    return frozenset(values) if isinstance(values, dict) else frozenset()
