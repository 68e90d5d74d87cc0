"""Rows of docs/results/cases.json: what a case must give, what it gave, and whether the two agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILES = Path(__file__).parent / "files"  # small inputs that people really have


@dataclass(frozen=True)
class CaseRow:
    """One line of the table."""

    case: str
    kind: str
    expected: str
    got: str
    ok: bool


class CaseRecorder:
    """Checks cases and keeps a row of each, also of those that fail."""

    def __init__(self) -> None:
        self.rows: list[CaseRow] = []

    def check(self, kind: str, case: str, got: object, expected: str | Sequence[str]) -> None:
        """Fails unless `got` is `expected`, or, where that is a list, contains every one of its parts."""
        text = " ".join(str(got).split())
        parts = None if isinstance(expected, str) else list(expected)
        assert parts != [], "a case must expect something"
        ok = text == expected if parts is None else all(part in text for part in parts)
        wanted = str(expected) if parts is None else " ... ".join(parts)
        self.rows.append(CaseRow(case, kind, wanted, text, ok))
        assert ok, f"{kind}, {case}: expected {wanted!r}, got {text!r}"

    def write(self, path: Path, folders: Mapping[Path, str]) -> None:
        """The table as JSON, sorted by kind, with a machine's own folders replaced by the names given for them."""
        rows = [asdict(row) for row in sorted(self.rows, key=lambda row: (row.kind, row.case))]
        text = json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        for folder, name in folders.items():
            text = text.replace(str(folder), name)
        path.write_text(text, "utf-8")


def outcome(attempt: Callable[[], Any]) -> str:
    """What an attempt gives, as text: its result, or `refused: ` and the sentence."""
    try:
        return str(attempt())
    except ValueError as error:
        return f"refused: {error}"
