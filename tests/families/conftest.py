"""Families from end to end: each variant is a test and, with `--families FILE`, a row of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def family_rows(request: pytest.FixtureRequest) -> Iterator[list[dict[str, Any]]]:
    """The rows of this session, written at its end when `--families` names a file."""
    rows: list[dict[str, Any]] = []
    yield rows
    path = request.config.getoption("--families")
    if path:
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
