"""`import fewstep`: quick, without torch, and with all that it says it offers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fewstep


def printed(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_it_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'diffusers', 'pydantic', 'rich', 'torchmetrics', 'typer'}"
    assert printed(f"import sys, fewstep, fewstep.api; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_all_names_are_there_whatever_was_imported_before() -> None:
    code = (
        "import fewstep; print([n for n in fewstep.__all__ if getattr(fewstep, n) is None], callable(fewstep.distill))"
    )
    assert printed(code) == "[] True"
    code = "import fewstep.distill.recipe as r, fewstep; print(callable(fewstep.distill), fewstep.Recipe is r.Recipe)"
    assert printed(code) == "True True"
    assert set(fewstep.__all__) <= set(dir(fewstep))


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'destill'"):
        fewstep.destill  # noqa: B018
