"""Some bad inputs of every surface: each is accepted or refused in one sentence; `make fuzz` tries more."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.asked import Asker
from tests.fuzz.material import make_material
from tests.fuzz.names import NAMES
from tests.fuzz.surfaces import SURFACES, Surface


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Asker:
    """With the material, which is made once."""
    root = tmp_path_factory.mktemp("material") / "material"
    make_material(root)
    return Asker(root, Random(0))


@pytest.mark.parametrize("surface", [s for s in SURFACES if s.targets], ids=lambda surface: surface.name)
def test_what_is_mutated_is_good_before(surface: Surface, asker: Asker, tmp_path: Path) -> None:
    surface.copy(asker.root, tmp_path / "case")
    surface.ask(asker, tmp_path / "case")


def test_every_surface_has_its_name() -> None:
    assert tuple(surface.name for surface in SURFACES) == NAMES


def test_no_bad_input_crashes_or_hangs(asker: Asker, tmp_path: Path) -> None:
    rows = fuzz(NAMES, 3 * len(NAMES), 1, asker.root.parent, tmp_path / "each.jsonl", quiet=True)
    bad = [row for row in rows if row["crashed"] or row["hung"] or row["executed"]]
    assert not bad, (tmp_path / "each.jsonl").read_text()
