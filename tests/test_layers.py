"""The house rules, read from the source: who may import whom, and how long a file and a function may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# package -> the packages it may import, apart from itself
MAY_IMPORT = {
    "teacher": set[str](),
    "student": {"teacher"},
    "distill": {"teacher", "student"},
    "eval": {"teacher", "student"},
    "recipes": set[str](),
}
PACKAGES = sorted(MAY_IMPORT)
OWN = ROOT / "src" / "fewstep"
FILES = sorted(
    [path for folder in (*PACKAGES, "tests") for path in (ROOT / folder).rglob("*.py")]
    + [*OWN.glob("*.py"), *(OWN / "api").rglob("*.py"), *(OWN / "commands").rglob("*.py")]
)


def imported(path: Path, package: str) -> Iterator[str]:
    """The absolute names of the modules and members that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    """The parts of fewstep that a file imports: packages, `commands` or `cli`."""
    package = ".".join(("fewstep", *path.relative_to(ROOT).parent.parts))
    names = (name.split(".") for name in imported(path, package))
    return {parts[1] for parts in names if parts[0] == "fewstep" and len(parts) > 1}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_room_imports_only_the_rooms_below_it(package: str) -> None:
    allowed = MAY_IMPORT[package] | {package, "__version__"}
    strays = {
        str(path.relative_to(ROOT)): stray
        for path in (ROOT / package).rglob("*.py")
        if (stray := rooms_imported(path) - allowed)
    }
    assert not strays


def test_the_package_itself_imports_fewstep_for_type_checkers_alone() -> None:
    (checked,) = (node for node in ast.parse((OWN / "__init__.py").read_text()).body if isinstance(node, ast.If))
    assert isinstance(checked.test, ast.Name) and checked.test.id == "TYPE_CHECKING" and not checked.orelse
    others = [node for node in ast.parse((OWN / "__init__.py").read_text()).body if not isinstance(node, ast.If)]
    modules = {node.module for other in others for node in ast.walk(other) if isinstance(node, ast.ImportFrom)}
    assert modules == {"importlib", "types", "typing"}


def test_recipes_hold_data_only() -> None:
    (path,) = (ROOT / "recipes").rglob("*.py")
    (docstring,) = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)


def test_every_room_is_linked_into_the_namespace() -> None:
    for package in PACKAGES:
        assert (OWN / package).is_symlink() and (OWN / package).samefile(ROOT / package)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text()
    long = {
        node.name: length
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > 80
    }
    assert not long
    assert len(source.splitlines()) <= 400
