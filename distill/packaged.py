"""The recipes that ship with fewstep, by name."""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path

import yaml

from fewstep.teacher.files.atomic import check_writable, whole_file
from fewstep.teacher.files.yaml_text import load_yaml

RECIPES = Path(str(files("fewstep.recipes"))).resolve()
SCHEMA = RECIPES / "schema.json"
FOR_EDITORS = "# yaml-language-server: $schema=schema.json"


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


def packaged_names() -> list[str]:
    """All packaged recipes that `fewstep run` follows, without suffix."""
    return sorted([*recipe_names(), *chain_names(), *decoder_names()])


def packaged_recipe(name: str) -> Path:
    """The file of a packaged recipe. Raises ValueError when `list` does not have it."""
    if name.removesuffix(".yaml") not in packaged_names():
        raise ValueError(f"there is no packaged recipe {name}: choose among {', '.join(packaged_names())}")
    return RECIPES / f"{name.removesuffix('.yaml')}.yaml"


def about_recipe(name: str) -> str:
    """What a packaged recipe does: the first clause of the comment that it begins with."""
    lines = packaged_recipe(name).read_text("utf-8").splitlines()
    comment = [line.lstrip("# ") for line in lines[: next(i for i, line in enumerate(lines) if line[:1] != "#")]]
    words = " ".join(line for line in comment if not line.startswith("yaml-language-server"))
    return re.split(r"[.:;](?:\s|$)", words, maxsplit=1)[0]


def copy_recipe(name: str, folder: Path) -> Path:
    """Copies a packaged recipe into a folder, which need not be there, and next to it the schema that it names.

    Raises ValueError when the folder holds another file of such a name, cannot be written, or is named like a file.
    """
    source = packaged_recipe(name)
    if folder.suffix in (".yaml", ".yml") and not folder.is_dir():
        raise ValueError(f"{folder} is the name of a file: pass a folder, in which the copy is called {source.name}")
    copied = [source, SCHEMA] if source.read_text("utf-8").startswith(FOR_EDITORS) else [source]
    # all is looked at before anything is written
    for target, path in ((folder / path.name, path) for path in copied):
        if target.exists() and target.read_bytes() != path.read_bytes():
            raise ValueError(f"{target} is there and is not the packaged file: delete it, or name another folder")
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in copied:
        with whole_file(folder / path.name) as part:
            shutil.copyfile(path, part)
    return folder / source.name


def find_recipe(path: str | Path) -> Path:
    """The recipe's file: `path` itself, else the packaged one of that name. Raises ValueError when there is none."""
    file = Path(path).expanduser()
    if file.is_file():
        return file.resolve()
    packaged = RECIPES / f"{file.name.removesuffix('.yaml')}.yaml"
    if len(file.parts) == 1 and packaged.is_file():
        return packaged
    raise ValueError(f"there is no recipe {path}: pass a YAML file, or one of {', '.join(packaged_names())}")


def recipe_settings(path: str | Path) -> frozenset[str]:
    """The names at the top of a recipe, which tell what it is of; none where it is no YAML.

    Raises ValueError when there is no such recipe.
    """
    try:
        values = load_yaml(find_recipe(path).read_text("utf-8-sig"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return frozenset()
    return frozenset(values) if isinstance(values, dict) else frozenset()
