"""`fewstep.distill`: run a recipe from Python."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewstep.api.arguments import in_one_sentence, python_call

if TYPE_CHECKING:
    from fewstep.distill.recipe import Recipe


@in_one_sentence
def distill(
    recipe: str | Path | Recipe | Mapping[str, Any],
    *,
    again: str | Sequence[str] | None = None,
    only_stages: Sequence[str] | None = None,
    quiet: bool = False,
    **overrides: Any,
) -> Path:
    """Runs a recipe to its end, as `fewstep run` does, and returns the run directory. Call it again to resume.

    recipe: a YAML file, a packaged recipe's name such as "shapes-4step", a `fewstep.Recipe`, or a dict of its settings.
    overrides: settings of the recipe, as in out="runs/mine", or with dots, as in **{"stages.4-step.lr": 1e-4}.
    again: a stage, or several, to train again, whose settings may have changed. only_stages: names of stages to train,
    with those that they start from or learn from; None: all. quiet: prints nothing; the output is in the run's log.txt.
    Raises ValueError, with a one-sentence message, for what `fewstep run` refuses.
    """
    from fewstep.commands.run import follow_recipe
    from fewstep.commands.run_screen import RunScreen

    if only_stages is not None and (isinstance(only_stages, str) or not only_stages):
        raise ValueError(f"only_stages is {only_stages!r}: pass a list of names of stages")
    screen = RunScreen(quiet=quiet)
    source = str(recipe) if isinstance(recipe, str | Path) else recipe
    name = source if isinstance(source, str) else f"a {type(source).__name__} made in Python"
    screen.command = python_call(distill, {"recipe": name, "only_stages": only_stages, **overrides})
    screen.say(f"reading the recipe {name}")
    with _own_state():
        settings = [_setting(name, value) for name, value in overrides.items()]
        names = [again] if isinstance(again, str) else again or ()
        return follow_recipe(source, settings, names, screen, stages=only_stages)


def _setting(name: str, value: Any) -> str:
    """As --set takes it: JSON is YAML."""
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        return f"{name}={json.dumps(to_jsonable_python(value))}"
    except PydanticSerializationError as error:
        raise ValueError(
            f"{name} is {value!r}, which no recipe can hold: pass text, numbers, lists or dicts"
        ) from error


@contextmanager
def _own_state() -> Iterator[None]:
    """Leaves accelerate as it was found: its settings would else be those of every later run of this process."""
    from accelerate.state import AcceleratorState, PartialState

    fresh = not PartialState._shared_state
    try:
        yield
    finally:
        if fresh:
            AcceleratorState._reset_state(reset_partial_state=True)
