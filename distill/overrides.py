"""Settings by dotted path: `stages.4-step.lr=1e-4`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from fewstep.teacher.files.yaml_text import load_yaml


def stage_names(stages: Sequence[Any]) -> list[Any]:
    """The name each stage of a raw recipe has or gets: 4-step, 4-step-adversarial, 4-step-adversarial-2 ..."""
    given_names = [stage.get("name") if isinstance(stage, dict) else None for stage in stages]
    taken = {name for name in given_names if isinstance(name, str)}
    names = []
    for name, stage in zip(given_names, stages, strict=True):
        if not name:
            name = _free_name(stage, taken)
            taken.add(name)
        names.append(name)
    return names


def _free_name(stage: Any, taken: set[str]) -> str:
    objective = stage.get("objective") if isinstance(stage, dict) else None
    kind = objective.get("kind") if isinstance(objective, dict) else getattr(objective, "kind", None)
    plain = f"{stage.get('student_steps') if isinstance(stage, dict) else None}-step"
    names = [plain, f"{plain}-{kind}", *(f"{plain}-{kind}-{n}" for n in range(2, len(taken) + 2))]
    return next(name for name in names if name not in taken)


def apply(override: str, values: dict[str, Any]) -> None:
    """Sets one dotted setting of a raw recipe, as in `stages.1.objective.r1=0.5`; the value is YAML.

    List entries go by index, stages by name as well. What a recipe leaves unsaid may be set too; whether there is
    such a setting shows when the recipe is validated. Raises ValueError for a path that leads nowhere.
    """
    path, equals, text = override.partition("=")
    if not equals or not all(path.split(".")):
        raise ValueError(f"{override!r} sets nothing: write it as stages.0.lr=1e-4, a dotted path, = and a value")
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{override!r}: the value is not YAML: {' '.join(str(error).split())}") from error
    # settings above that the recipe leaves unsaid are made on the way; whether they exist shows in its validation
    node: Any = values
    *above, last = path.split(".")
    for depth, key in enumerate(above):
        place = ".".join(above[:depth])
        node = _child(node, _key(node, key, place), f"{place}.{key}".lstrip("."))
    node[_key(node, last, ".".join(above))] = value


def _child(node: Any, key: str | int, place: str) -> Any:
    if isinstance(node, dict) and node.get(key) is None:  # unsaid: its settings begin at their defaults
        node[key] = {}
    child = node[key]
    if not isinstance(child, dict | list):
        raise ValueError(f"{place} is {repr(child)[:80]} and has no settings of its own: end the path there")
    return child


def _key(node: dict[str, Any] | list[Any], key: str, place: str) -> str | int:
    """The key of a setting, or the index of a list's entry. Raises ValueError when the list has no such entry."""
    if isinstance(node, dict):
        return key
    if key.isdecimal() and int(key) < len(node):
        return int(key)
    names = stage_names(node) if place == "stages" else []
    if key in names:
        return names.index(key)
    known = [*map(str, range(len(node))), *names]
    raise ValueError(f"{place}.{key} does not exist: use one of {', '.join(known) or 'none, for the list is empty'}")
