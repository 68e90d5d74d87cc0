"""`import fewstep`: quick, without torch, and with all that it says it offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fewstep
from tests.forked import run_scripts


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_it_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'diffusers', 'pydantic', 'rich', 'torchmetrics', 'typer'}"
    assert printed(f"import sys, fewstep, fewstep.api; print(sorted({heavy} & set(sys.modules)))") == "[]"


# As in a new interpreter, but for what others than fewstep have imported, which takes ten seconds.
ANEW = """
import sys

for name in [name for name in sys.modules if name.partition(".")[0] == "fewstep"]:
    del sys.modules[name]
"""


@pytest.mark.parametrize(
    "code",
    [
        "import fewstep; assert None not in [getattr(fewstep, name) for name in fewstep.__all__]",
        "import fewstep.distill.recipe as r, fewstep; assert fewstep.Recipe is r.Recipe",
    ],
    ids=["nothing", "a module of the same name"],
)
def test_all_names_are_there_whatever_was_imported_before(code: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"{ANEW}\n{code}\nassert callable(fewstep.distill)\n")
    run_scripts(1, script, logs=tmp_path)
    assert set(fewstep.__all__) <= set(dir(fewstep))


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'destill'"):
        fewstep.destill  # noqa: B018
