"""Releases that would give wrong colours are not let in, and what is asked for is used and pinned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from tests.test_dependencies import ALL, NEEDED, NEEDED_BY_OTHERS, PINS, UNPINNED, is_imported

KIND = "06 dependencies"
Check = Callable[[str, str, object, str | Sequence[str]], None]


@pytest.mark.parametrize(
    ("release", "allowed"),
    [("14.0.0", False), ("15.1.0", False), ("16.0.1", False), ("16.1.0", False), ("17.0.0", True), ("18.1.0", True)],
)
def test_releases_of_av(check_case: Check, release: str, allowed: bool) -> None:
    got = "allowed" if NEEDED["av"].specifier.contains(release) else "not allowed"
    case = f"av {release}, which decodes BT.709 {'right' if allowed else 'by the matrix of BT.601'}"
    check_case(KIND, case, got, "allowed" if allowed else "not allowed")


def test_what_is_asked_for(check_case: Check) -> None:
    check_case(KIND, "direct dependencies without a pin", sorted(ALL.keys() - PINS.keys()), str(sorted(UNPINNED)))
    unused = sorted(name for name in NEEDED if not is_imported(name) and name not in NEEDED_BY_OTHERS)
    check_case(KIND, "dependencies that nothing imports", unused, "[]")
    dropped = sorted({"matplotlib", "datasets"} & ALL.keys())
    check_case(KIND, "matplotlib and datasets", dropped, "[]")
