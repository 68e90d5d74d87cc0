"""What pyproject.toml asks for is used, and pinned for those who want what the tests run with."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("teacher", "student", "distill", "eval", "src/fewstep")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
UNPINNED = {"torchvision"}  # must be of the same build as torch, so no version fits everywhere
IMPORTED_AS = {"pillow": "PIL", "pyyaml": "yaml"}
# What other libraries import when fewstep uses them, and do not install by themselves.
NEEDED_BY_OTHERS = {
    "ftfy": "diffusers cleans the prompts of Wan with it",
    "sentencepiece": "transformers reads the tokenizers of T5 with it",
}


def by_name(group: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(one.name): one for one in map(Requirement, group)}


NEEDED = by_name(PROJECT["dependencies"])
ALL = NEEDED | by_name([one for group in PROJECT["optional-dependencies"].values() for one in group])
del ALL["fewstep"]  # an extra that contains another
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = by_name([line for line in LINES if line and not line.startswith("#")])


@cache
def imported() -> set[str]:
    """The top-level names of every module that the source imports, also inside functions."""
    names: set[str] = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def is_imported(name: str) -> bool:
    return IMPORTED_AS.get(name, name.replace("-", "_")) in imported()


def test_every_dependency_has_one_exact_pin() -> None:
    assert PINS.keys() == ALL.keys() - UNPINNED
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in PINS.values())


@pytest.mark.parametrize("name", sorted(PINS))
def test_a_pin_lies_within_what_users_may_have(name: str) -> None:
    pinned = str(PINS[name].specifier).removeprefix("==")
    assert ALL[name].specifier.contains(pinned)


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_every_dependency_is_imported(name: str) -> None:
    assert is_imported(name) != (name in NEEDED_BY_OTHERS), f"{name}: drop it, or say who needs it"
