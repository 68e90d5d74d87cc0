"""Cases that went wrong in other tools: each is a test and, with `--cases FILE`, a row of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cases.record import CaseRecorder


@pytest.fixture(scope="session")
def case_recorder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaseRecorder]:
    """The rows of this session, written at its end when `--cases` names a file."""
    recorder = CaseRecorder()
    yield recorder
    path = request.config.getoption("--cases")
    if path:
        folders = {tmp_path_factory.getbasetemp(): "TMP", request.config.rootpath: "PROJECT"}
        recorder.write(Path(path), folders)


@pytest.fixture
def check_case(case_recorder: CaseRecorder) -> Callable[..., None]:
    """check_case(kind, case, got, expected): see CaseRecorder.check."""
    return case_recorder.check
