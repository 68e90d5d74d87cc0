"""What an export does not tell: where things lie on the machine that it was made on."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from fewstep.student.contract import UNNAMED, SamplingContract
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.source import EMBEDDED, HUB_ID

# where a library loaded a part from, at any depth of its config: _name_or_path, tokenizer_file, special_tokens_map_file
_ORIGIN = ("name_or_path", "_file")
# an absolute path inside a sentence or a word, such as name=/home/me/run@4, but no URL and no a/b
_PATH = re.compile(r"(?<![\w./\\~-])(?:~?/|[A-Za-z]:[\\/])[\w.@+~-]+(?:[/\\][\w.@+~-]+)*")


def check_base_model(name: str) -> None:
    """Raises ValueError for what is not a name on the hub, above all for a folder."""
    if re.fullmatch(HUB_ID, name) is None or Path(name).is_dir():
        raise ValueError(
            f"--base-model {name}: it goes into the files and the card, so it must be the base model's name on the "
            "hub, such as ORG/NAME, and no folder; where a folder here has the hub's own name, export from elsewhere"
        )


def published(contract: SamplingContract, base_model: str | None = None) -> SamplingContract:
    """The contract as others may read it: its teacher by a name on the hub, never by a folder.

    Without `base_model` a teacher's folder becomes UNNAMED. Raises ValueError as `check_base_model`.
    """
    if base_model is not None:
        check_base_model(base_model)
        return contract.model_copy(update={"teacher": base_model})
    return contract.model_copy(update={"teacher": published_name(contract.teacher)})


def published_name(teacher: str) -> str:
    """A teacher's name as others may read it: UNNAMED in place of a folder."""
    return teacher if teacher in EMBEDDED or is_hub_id(teacher) else UNNAMED


def is_hub_id(name: str) -> bool:
    """Whether a contract's teacher is a model on the hub, by its name alone."""
    return name != UNNAMED and re.fullmatch(HUB_ID, name) is not None


def forget_origins(folder: Path) -> None:
    """Empties what configs in the folders of parts say about the folder that they were loaded from."""
    for path in folder.rglob("*.json"):
        if not path.name.endswith(("config.json", "index.json")):
            continue
        settings = parse_json(path.read_text("utf-8"))
        if (without := _without_origins(settings)) != settings:
            path.write_text(json.dumps(without, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _without_origins(settings: Any) -> Any:
    """Names on the hub stay, paths become empty."""
    if isinstance(settings, list):
        return [_without_origins(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    return {
        key: "" if key.endswith(_ORIGIN) and isinstance(value, str) and _is_path(value) else _without_origins(value)
        for key, value in settings.items()
    }


def without_paths(value: Any) -> Any:
    """Settings, or a sentence, in which names of files and folders are all that is left of absolute paths."""
    if isinstance(value, Mapping):
        return {key: without_paths(nested) for key, nested in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(nested) for nested in value]
    if not isinstance(value, str):
        return value
    if _is_path(value):
        return _last(value)
    # names of folders may hold blanks, where no pattern could tell where a path ends: those that are known go first
    for folder in sorted({str(Path.cwd()), os.path.expanduser("~")}, key=len, reverse=True):
        if len(folder) > 1:
            value = value.replace(folder + os.sep, "")
    return _PATH.sub(lambda match: _last(match[0]), value)


def results_without_paths(results: Mapping[str, Any]) -> dict[str, Any]:
    """The same of what `fewstep evaluate` wrote; its command's paths may hold blanks."""
    published: dict[str, Any] = without_paths(results)
    return published | ({"command": _command(str(results["command"]))} if results.get("command") else {})


def _command(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:  # an odd number of quotes
        return str(without_paths(command))
    return shlex.join(_word(word) for word in words)


def _word(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{name}={without_paths(value)}" if equals and _is_path(value) else str(without_paths(word))


def _is_path(value: str) -> bool:
    return "\n" not in value and (
        PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute() or value.startswith(("~/", "file:"))
    )


def _last(path: str) -> str:
    return PureWindowsPath(path).name  # which takes either slash
