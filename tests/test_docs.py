"""The documentation's site builds without a warning and offline, and holds what is generated from the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fewstep.metrics
from fewstep.student.export.programs import PROGRAMS

ROOT = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"  # a proxy that refuses: the build may ask nobody for anything
LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(https?:[^\" >]+)|<link[^>]*\shref=\"?(https?:[^\" >]+)"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out))
    offline = {"http_proxy": NOWHERE, "https_proxy": NOWHERE, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def page(site: Path, name: str) -> str:
    return (site / name / "index.html").read_text("utf-8")


def test_the_reference_has_every_function_and_metric(site: Path) -> None:
    text = page(site, "api")
    functions = ("load_pipeline", "evaluate", "benchmark", "export")
    names = [*(f"fewstep.{name}" for name in functions), "fewstep.api.distillation.distill"]
    names += [f"fewstep.metrics.{name}" for name in fewstep.metrics.__all__]
    assert [name for name in names if f'id="{name}"' not in text] == []
    assert "the same as in an evaluation" in text  # docstrings are there, not names alone


def test_the_page_of_settings_has_every_setting_of_the_schema(site: Path) -> None:
    schema = json.loads((ROOT / "recipes" / "schema.json").read_text("utf-8"))
    text = page(site, "recipe-settings")
    for name, node in {"Recipe": schema, **schema["$defs"]}.items():
        part = text.split(f'<h2 id="{name.lower()}">')[1].split("<h2 ")[0]
        assert re.findall(r"<tr>\s*<td><code>(\w+)</code></td>", part) == list(node["properties"])
    assert re.search(r"<td><code>lr</code></td>\s*<td>number &gt; 0", text)


def test_the_page_of_exports_has_a_row_for_every_format() -> None:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "exports.md").read_text("utf-8"), re.MULTILINE)
    assert [name for name in PROGRAMS if not any(f"`{name}`" in row for row in rows)] == []


def test_every_table_is_rendered_as_one(site: Path) -> None:
    """A table whose rows were joined or whose indent is wrong stays text, and its line of dashes with it."""
    texts = {str(path.relative_to(site)): path.read_text("utf-8") for path in site.rglob("index.html")}
    assert [name for name, text in texts.items() if re.search(r"\| *:?---+:? *\|", text)] == []


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = {str(path): LOADED.findall(path.read_text("utf-8")) for path in site.rglob("*.html")}
    assert len(loaded) > 30
    assert {path: urls for path, urls in loaded.items() if urls} == {}
