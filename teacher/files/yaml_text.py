"""YAML that others wrote: numbers as YAML 1.2 has them, nothing said twice, and no text that crashes or never ends."""

from __future__ import annotations

import re
from typing import Any

import yaml

LONGEST = 500_000  # characters: PyYAML takes a second for 50,000
_MOST, _DEEPEST = 100_000, 50  # values with aliases written out, and levels


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 2e-4 as a number, as YAML 1.2 does, and refuses a setting said twice, and many levels."""

    _level = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self._level > _DEEPEST:  # before PyYAML, whose work grows with the square of the levels
            raise yaml.composer.ComposerError(None, None, _TOO_DEEP, self.peek_event().start_mark)
        self._level += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._level -= 1

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        keys: set[str] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in keys:
                    raise yaml.composer.ComposerError(None, None, f"{name.value} is said twice", node.start_mark)
                keys.add(name.value)
        return node

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST:  # merges of merges
            raise yaml.constructor.ConstructorError(None, None, _TOO_MANY, node.start_mark)


_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def load_yaml(text: str) -> Any:
    """What a YAML text says; 2e-4 is a number, and aliases are copies of what they mean.

    Raises yaml.YAMLError for all that cannot be used: a key that stands twice, an alias that stands for what it is
    part of, aliases that come to more than 100,000 values, more than 50 levels, a value that is not what its tag says.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"it has {len(text):,} characters, and {LONGEST:,} are allowed")
    try:
        return _Copy().of(yaml.load(text, _Loader), 0)
    except RecursionError:
        raise yaml.YAMLError(_TOO_DEEP) from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise yaml.YAMLError(f"a value is not what its form or tag says ({error})") from error  # !!bool maybe


class _Copy:
    """A value without YAML's aliases, so that setting one of two equal parts leaves the other alone."""

    def __init__(self) -> None:
        self._count = 0

    def of(self, value: Any, level: int) -> Any:
        """Raises yaml.YAMLError once there are too many values, or levels, of which a loop has endlessly many."""
        self._count += 1
        if self._count > _MOST:
            raise yaml.YAMLError(_TOO_MANY)
        if level > _DEEPEST:
            raise yaml.YAMLError(_TOO_DEEP)
        if isinstance(value, str):
            _check_characters(value)
        if isinstance(value, dict):
            return {key: self.of(part, level + 1) for key, part in value.items()}
        return [self.of(part, level + 1) for part in value] if isinstance(value, list) else value


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise yaml.YAMLError("a text holds half a character, \\ud800 to \\udfff without its other half") from None


_TOO_MANY = f"its aliases (*name) come to more than {_MOST:,} values: write out what is meant"
_TOO_DEEP = (
    f"its settings lie within one another more than {_DEEPEST} levels deep, as where an alias (*name) is part of "
    "what it stands for: write out what is meant"
)
