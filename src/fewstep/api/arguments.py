"""Arguments of calls, checked as the command line checks its options, and errors as one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from fewstep.commands.sentence import error_text, one_line

_P = ParamSpec("_P")
_R = TypeVar("_R")
PathOrName = str | Path


def in_one_sentence(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """The function with everything that a user can fix as a ValueError of one sentence, which names its arguments."""
    names = set(signature(call).parameters)

    @wraps(call)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return call(*args, **kwargs)
        except (ValueError, OSError) as error:
            sentence = one_line(_in_python(error_text(error), names)) or type(error).__name__
            raise ValueError(sentence) from error

    return wrapped


def _in_python(sentence: str, names: set[str]) -> str:
    """Options of the command line as the arguments of these names; commands in backticks stay as they are."""

    def argument(match: re.Match[str]) -> str:
        name = (match[1] or "").replace("-", "_")
        return name if name in names else match[0]

    return re.sub(r"`[^`]*`|--([a-z][a-z-]*)", argument, re.sub(r"--set (?=[\w'\[])", "", sentence))


def checked(command: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a call by the command's names, of its types and within its limits.

    A Path will do for a text, a text for a Path, and a number for a text. Raises ValueError for other values, and
    TypeError for a name that the command has not.
    """
    hints = get_type_hints(command, include_extras=True)
    if strays := values.keys() - hints.keys():
        raise TypeError(f"{command.__name__.removesuffix('_command')} has no {', '.join(sorted(strays))}")
    return {name: _checked(name, value, hints[name]) for name, value in values.items()}


def _checked(name: str, value: Any, hint: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    kind, option = get_args(hint)[:2]
    # as a shell would pass it: paths and numbers as text, where the option takes text
    if isinstance(value, Path) or (_takes_text(kind) and type(value) in (int, float)):
        value = str(value)
    try:
        checked_value = TypeAdapter(kind, config={"allow_inf_nan": False}).validate_python(value)
    except ValidationError as error:
        why = error.errors()[0]["msg"].lower().partition(" for <")[0]
        raise ValueError(f"{name} is {value!r}: {why}") from error
    # limits are those of typer's option, of which pydantic knows nothing
    low, high = getattr(option, "min", None), getattr(option, "max", None)
    if checked_value is not None and (
        (low is not None and checked_value < low) or (high is not None and checked_value > high)
    ):
        limits = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
        raise ValueError(f"{name} is {checked_value!r}: it must be {limits}")
    return checked_value.expanduser() if isinstance(checked_value, Path) else checked_value


def _takes_text(kind: Any) -> bool:
    return kind is str or str in get_args(kind)


def named_models(models: PathOrName | Sequence[PathOrName] | Mapping[str, PathOrName]) -> list[str]:
    """Models as the command line takes them: ["shapes@50:7", "student=runs/shapes-4step"]."""
    if isinstance(models, str | Path):
        return [str(models)]
    if isinstance(models, Mapping):
        return [f"{name}={source}" for name, source in models.items()]
    if not isinstance(models, Sequence) or not all(isinstance(source, str | Path) for source in models):
        raise ValueError(f"models is {models!r}: pass sources of models, or a dict of them by name, the teacher first")
    return [str(source) for source in models]


def python_call(call: Callable[..., Any], values: Mapping[str, Any]) -> str:
    """The call as Python, without what has its default: for files that say how they were made."""
    usual = {name: parameter.default for name, parameter in signature(call).parameters.items()}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    shown = [f"{name}={value!r}" for name, value in plain.items() if name not in usual or value != usual[name]]
    return f"fewstep.{call.__name__}({', '.join(shown)})"
