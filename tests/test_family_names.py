"""Only `teacher/families/` knows a family: no code elsewhere has a family's name in it, read from the source.

Comments and docstrings may name one, as an example or as where something comes from.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import diffusers
import pytest

from fewstep.teacher.families import FAMILIES
from tests.test_layers import FILES, ROOT

# Apart from the families: the embedded teacher is a pipeline of one, and is put together and trained in `shapes`.
KNOWING = (ROOT / "teacher" / "families", ROOT / "teacher" / "shapes", ROOT / "tests")
# Names of data: an architecture is a folder of configs, and may be called as its model is.
DATA = [path.name for path in (ROOT / "eval" / "latency" / "architectures").iterdir()]

MODULES = {family.__module__.rpartition(".")[2].replace("_", "") for family in FAMILIES.values()}
CLASSES = {*FAMILIES, *(family.__name__ for family in FAMILIES.values())} | {
    name
    for name in dir(diffusers)
    if re.search(r"Pipeline$|Transformer\dDModel$|^Autoencoder|^UNet", name) and name != "DiffusionPipeline"
}
WORDS = re.compile("|".join(rf"(?<![a-z]){'_?'.join(module)}(?![a-z])" for module in sorted(MODULES)))
IMPORTS = re.compile(r"\bfamilies\.\w+")


def parts_of_code(tree: ast.AST) -> Iterator[str]:
    """Every identifier, module name and string of a file, but for docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None  # the docstring of what stands around it or before it
        for _, value in ast.iter_fields(node):
            yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))


def named(part: str) -> list[str]:
    """The families' names in a part of code, of which names of data are left out."""
    for name in DATA:
        part = part.replace(name, "")
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", part).lower()
    classes = [word for word in re.findall(r"\w+", part) if word in CLASSES]
    return classes + IMPORTS.findall(part) + WORDS.findall(split)


ELSEWHERE = [path for path in FILES if not any(path.is_relative_to(folder) for folder in KNOWING)]


@pytest.mark.parametrize("path", ELSEWHERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_family_is_named_outside_of_families(path: Path) -> None:
    assert not named(str(path.relative_to(ROOT)))
    parts = parts_of_code(ast.parse(path.read_text()))
    assert not {part: names for part in parts if (names := named(part))}


@pytest.mark.parametrize(
    "code",
    [
        "from fewstep.teacher.families.limits import check_frames",
        "import fewstep.teacher.families.wan as family",
        "isinstance(teacher, WanTeacher)",
        "families = ('CogVideoXPipeline',)",
        "type(scheduler).__name__.startswith('CogVideoX')",
        "def to_wan_names(): pass",
        "kind.is_animatediff = True",
        "open(wan=True)",
        "raise ValueError(f'{file} is not a LoRA for Wan ({error})')",
        "match x:\n case Wan(): pass",
        "name == 'HunyuanVideoPipeline'",
        "diffusers.StableVideoDiffusionPipeline",
        "pipe.transformer = AutoencoderKLWan()",
    ],
)
def test_whatever_names_one_would_be_found(code: str) -> None:
    assert any(named(part) for part in parts_of_code(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    [
        "import wandb",
        "wants_gradient = 'what they want of a swan'",
        "def f():\n  '''As Wan and CogVideoX do it.'''",
        "help = 'wan2.1-t2v-1.3b, or a folder'",
        "from fewstep.teacher.families import FAMILIES",
        "from diffusers import DiffusionPipeline  # not WanPipeline",
    ],
)
def test_other_words_are_none(code: str) -> None:
    assert not any(named(part) for part in parts_of_code(ast.parse(code)))
