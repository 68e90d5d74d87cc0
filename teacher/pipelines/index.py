"""What a pipeline's folder says it is made of: a classical index, or a modular one read as if it were one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewstep.teacher.files.json_text import parse_json

CLASSICAL_INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"


def index_path(folder: Path) -> Path:
    """The file that names a pipeline's parts; where there are both, as in diffusers, the classical one counts."""
    modular = folder / MODULAR_INDEX
    return modular if modular.is_file() and not (folder / CLASSICAL_INDEX).is_file() else folder / CLASSICAL_INDEX


def read_pipeline_index(folder: Path) -> dict[str, Any]:
    """The folder's index in the form of model_index.json: `_class_name`, settings, and [library, class] of each part.

    Raises ValueError when it is no JSON object, or a modular one whose parts lie elsewhere.
    """
    path = index_path(folder)
    index = read_json(path)
    if path.name == CLASSICAL_INDEX:
        return index
    blocks = "_blocks_class_name"  # a modular pipeline's own affair
    return {n: _part(path, n, entry) if isinstance(entry, list) else entry for n, entry in index.items() if n != blocks}


def _part(path: Path, name: str, entry: list[Any]) -> list[Any]:
    """Of a modular entry [library, class, where it is loaded from]: diffusers, too, prefers the part that lies here."""
    if len(entry) != 3 or not isinstance(entry[2], dict):
        return entry
    library, class_name, spec = entry
    # diffusers would download what lies elsewhere; here a folder is whole, or refused
    if spec.get("subfolder") != name or not (path.parent / name).is_dir():
        origin = spec.get("pretrained_model_name_or_path")
        if origin is None and not spec.get("subfolder"):
            return [None, None]  # blocks know of such a part, and this pipeline has none
        elsewhere = "/".join(str(part) for part in (origin, spec.get("subfolder")) if part)
        raise ValueError(
            f"{path} takes its {name} from {elsewhere or 'nowhere'}, and there is no {path.parent / name}: load all "
            "of it with diffusers, from_pretrained(...) and load_components(), and save it, save_pretrained(DIR)"
        )
    return [library, class_name]


def config_number(folder: Path, setting: str) -> int | None:
    """A whole number in a part's config.json, as in vae.z_dim; None where it is not to be read there."""
    part, name = setting.split(".")
    try:
        value = read_json(folder / part / "config.json").get(name)
    except (OSError, ValueError):  # whoever looks at the parts says what is wrong with it
        return None
    return value if type(value) is int else None


def read_json(path: Path) -> dict[str, Any]:
    """The settings in a JSON file. Raises ValueError when it holds no JSON object."""
    try:
        return dict(parse_json(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object ({error}): restore it from where it came from") from error
