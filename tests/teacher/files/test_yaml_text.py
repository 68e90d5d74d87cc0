from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fewstep.teacher.files.yaml_text import LONGEST, load_yaml
from tests.fuzz.mutations import PLANTED, yaml_bombs


def test_aliases_are_copies_and_2e_4_is_a_number() -> None:
    values = load_yaml("a: &x {lr: 2e-4}\nb: *x\nc: {<<: *x, steps: 1}\n")
    assert values == {"a": {"lr": 2e-4}, "b": {"lr": 2e-4}, "c": {"lr": 2e-4, "steps": 1}}
    assert values["a"] is not values["b"]


@pytest.mark.parametrize("number", range(len(yaml_bombs())))
def test_every_bomb_is_refused_or_harmless(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        load_yaml(yaml_bombs()[number]("teacher: shapes", "seed: 0\n"))
    except yaml.YAMLError as error:
        assert len(" ".join(str(error).split())) < 500
    assert not (tmp_path / PLANTED).exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [*a]", "part of what it stands for"),
        ("&a {a: *a}", "part of what it stands for"),
        ("[" * 5000, "levels deep"),
        (f"a: {'x' * LONGEST}", "characters"),
        ("a: 1\na: 2", "a is said twice"),
        ("a: 2024-99-99", "not what its form or tag says"),
        ("a: !!bool maybe", "not what its form or tag says"),
        ('a: "\\ud800"', "half a character"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
    ],
)
def test_what_cannot_be_used_is_a_yaml_error(text: str, message: str) -> None:
    with pytest.raises(yaml.YAMLError, match=message):
        load_yaml(text)
