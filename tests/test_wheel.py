"""The wheel, built through the sdist as a release is, holds the whole house and works away from it."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("distill", "eval", "recipes", "student", "teacher")
UNSEEN = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "out", "data", "tests")
NESTED = (
    "pipeline/vae/deep/weights.bin",
    "judge_weights/deep/weights.bin",
)  # any file below these folders must ship

IMPORT_EVERYTHING = """
import importlib, pkgutil, fewstep
for module in pkgutil.walk_packages(fewstep.__path__, "fewstep."):
    print(importlib.import_module(module.name).__file__)
"""


def run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with two more files among the weights."""
    copy = tmp_path_factory.mktemp("source") / "fewstep"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=UNSEEN)
    for name in NESTED:
        path = copy / "teacher" / "shapes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel, and this one's other packages by path alone."""
    home = tmp_path_factory.mktemp("outside") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home.parent)
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python")
    run(*pip, "install", "--no-index", "--no-deps", wheel, cwd=home.parent)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return home / "bin" / "python"


def test_every_module_imports_from_the_wheel(python: Path) -> None:
    home = python.parents[1]
    (installed,) = home.glob("lib/python*/site-packages/fewstep")
    modules = {Path(line) for line in run(python, "-c", IMPORT_EVERYTHING, cwd=home).split()}
    expected = {installed / path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert expected <= modules
    assert {path for path in modules if not path.is_relative_to(installed)} == set()


def test_the_command_runs_from_the_wheel(python: Path) -> None:
    assert "Usage: fewstep" in run(python.parent / "fewstep", "--help", cwd=python.parents[1])


def test_every_file_of_every_room_is_in_the_wheel(source: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path for package in PACKAGES for path in (source / package).rglob("*") if path.is_file()}
    assert {source / "teacher" / "shapes" / name for name in NESTED} <= files
    assert {f"fewstep/{path.relative_to(source).as_posix()}" for path in files} - names == set()
    assert "fewstep/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
