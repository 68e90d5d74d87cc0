"""The house's words, read from the source: one name for one thing, no import cycles, no private idiom."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_layers import FILES, OWN, ROOT

PACKAGES = ("teacher", "student", "distill", "eval")
CODE = [path for path in FILES if path.is_relative_to(OWN) or path.relative_to(ROOT).parts[0] in PACKAGES]

# Names that stand in several modules on purpose, and why.
SHARED_NAMES = {
    "FORMATS": "modules of export formats, of which `find_format` imports one by its path and asks it for this name",
    "read_header": "modules of formats of one file, of which `load_export` imports one by its path and calls this",
}

# Idiom of our own for which the field has words, as patterns.
BANNED = {
    r"\bone who moves\b": "optimizer group",
    r"\briddle\b": "an unclear error",
    r"\bat home\b": "available",
    r"\bshows the house\b": "shows what the toolkit does",
    r"\bits student are worth\b": "the quality of teacher and student",
    r"\bsilent stand-in\b": "fallback",
    r"\bhas it inside\b": "its guidance is distilled into its weights",
    r"\bhas inside\b": "was distilled with",
    r"\bnobody means\b": "out of range",
    r"\bis none of both\b": "is neither",
    r"\bheld against\b": "compared with",
    r"\bcannot be had\b": "cannot be loaded",
    r"\bstands in for them\b": "there is no fallback",
    r"\b(is asleep|it has won)\b": "what the discriminator's accuracy means",
    r"\bfor want of\b": "because there is no ...",
    r"\bof so many (steps|bits|clips|dimensions)\b": "of this many ...",
    r"\bnever taught where to land\b": "not trained at these nodes",
    r"\bpatches nothing with it\b": "has no effect in ComfyUI",
    r"\bbeside (?!a second thing)": "next to, or besides",
    r"\bbefore (the )?student moves\b|\bnobody outruns\b": "before the student's first step; neither side gets ahead",
}
# Past entries of the logs stay as they were written.
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").glob("*.yaml")]
    if path.name not in ("LOG.md", "CHANGELOG.md")
)


def public_names(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module defines, without those that it imports."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.If | ast.Try):
            yield from public_names([*node.body, *node.orelse])


def module_name(path: Path) -> str:
    parts = path.relative_to(OWN if path.is_relative_to(OWN) else ROOT).with_suffix("").parts
    return ".".join(("fewstep", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def test_a_public_name_stands_in_one_module() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for path in CODE:
        for name in public_names(ast.parse(path.read_text()).body):
            if not name.startswith("_"):
                homes[name].add(module_name(path))
    repeated = {name: sorted(modules) for name, modules in homes.items() if len(modules) > 1}
    assert {name: modules for name, modules in repeated.items() if name not in SHARED_NAMES} == {}
    assert set(SHARED_NAMES) <= set(repeated), "exemptions that are no longer needed"


def runtime_imports(path: Path) -> set[str]:
    """Modules that a file imports when it runs, also within functions; not what only type checkers import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    package = ".".join(("fewstep", *path.relative_to(OWN if path.is_relative_to(OWN) else ROOT).parent.parts))
    return set(imported_by(tree, package))


def imported_by(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (f"{module}.{alias.name}" for alias in node.names)


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import one another, directly or through others."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            waiting += (new := graph[waiting.pop()] - seen)
            seen |= new
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {tuple(sorted(n for n in reach[name] if name in reach[n])) for name in graph if name in reach[name]}
    return [list(group) for group in sorted(groups)]


def test_no_modules_import_one_another_not_even_within_functions() -> None:
    modules = {module_name(path): path for path in CODE}
    graph = {}
    for name, path in modules.items():
        members = runtime_imports(path)
        graph[name] = {m if m in modules else m.rpartition(".")[0] for m in members} & (modules.keys() - {name})
    assert cycles(graph) == []


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}}) == [["b", "c"], ["d"]]


_PROSE = ("COMMENT", "STRING", "FSTRING_MIDDLE")


def prose(path: Path) -> str:
    """Comments and strings of a Python file, docstrings and messages among them; all of a page."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return text
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(token.string for token in tokens if tokenize.tok_name[token.type] in _PROSE)


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_those_of_the_field(path: Path) -> None:
    text = " ".join(prose(path).split())
    assert {
        match[0]: better for idiom, better in BANNED.items() if (match := re.search(idiom, text, re.IGNORECASE))
    } == {}
