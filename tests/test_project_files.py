"""Files about the project agree with pyproject.toml and with the repository."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

import fewstep

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert str(cited["version"]) == PROJECT["version"] == fewstep.__version__
    assert cited["license"] == PROJECT["license"] and cited["authors"] == PROJECT["authors"]


def test_the_image_is_built_from_files_that_it_is_given() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    extras = re.findall(r"'\.\[(.*?)\]'", dockerfile)[0].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"]) and "--constraint constraints.txt" in dockerfile
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
    needed = (
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "src",
        "teacher",
        "student",
        "distill",
        "eval",
        "recipes",
    )
    assert not set(needed) & set(ignored) and all((ROOT / name).exists() for name in needed)


def test_issue_templates_name_pages_that_are_there() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    assert len(forms) == 2
    for form in forms:
        text = form.read_text("utf-8")
        assert {"name", "description", "body"} <= yaml.safe_load(text).keys()
        assert [
            page for page in re.findall(r"[\w/-]+\.md", text) if not (ROOT / "docs" / Path(page).name).exists()
        ] == []
