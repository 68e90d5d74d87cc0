"""Where a student comes from: the recipe and data of its run, and what was measured of it; for its model card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fewstep.student.export.load_export import is_export
from fewstep.student.loading import find_stage
from fewstep.student.weights import weights_sha256
from fewstep.teacher.dataset.buckets import datasets_in
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.files.yaml_text import load_yaml


@dataclass(frozen=True)
class Provenance:
    """What is known of a student's training; empty where nothing is."""

    stage: str = ""
    recipe: str = ""  # the run's recipe.yaml
    manifest_sha256: str = ""  # of the data's manifest.json; of several sizes of them all, one behind the other
    results: Mapping[str, Any] = field(default_factory=dict)  # what `fewstep evaluate` wrote
    outdated: bool = False  # whether the run's evaluation is of other weights than the stage has now, and left out


def read_provenance(source: Path, steps: int | None = None, results: Path | None = None) -> Provenance:
    """What the run around a stage says, or the run's stage of this many steps. Raises ValueError for results that are
    none."""
    # where it really lies: a link, or a path from inside the run, says nothing of what is around
    stage = (source if is_export(source) else find_stage(source, steps)).resolve()
    run = stage.parent.parent if stage.parent.name == "stages" else stage
    recipe = run / "recipe.yaml"
    manifests = [manifest for dataset in datasets_in(run / "data") if (manifest := dataset / "manifest.json").is_file()]
    hashed = hashlib.sha256(b"".join(manifest.read_bytes() for manifest in manifests)).hexdigest()
    measured = results or run / "evaluation" / "results.json"
    outdated = results is None and not _is_of(measured.parent, stage)
    return Provenance(
        stage=stage.name if run != stage else "",
        recipe=_read_recipe(recipe) if recipe.is_file() else "",
        manifest_sha256=hashed if manifests else "",
        results=_read_results(measured) if (results or measured.is_file()) and not outdated else {},
        outdated=outdated,
    )


def _is_of(evaluation: Path, stage: Path) -> bool:
    """Whether it has clips of the stage's weights as they are now: the stage may have been trained again since. True
    where it does not say."""
    claims = [_read_claim(file) for file in evaluation.glob("parts/*/model.json")]
    known = {claim["weights_sha256"] for claim in claims if "weights_sha256" in claim}
    return not known or is_export(stage) or weights_sha256(stage) in known


def _read_claim(file: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(file.read_text("utf-8")))
    except (ValueError, TypeError):  # `fewstep evaluate` says what to do with it
        return {}


def _read_recipe(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
        recipe = load_yaml(text)
        if isinstance(recipe, dict) and all(isinstance(stage, dict) for stage in recipe.get("stages", [])):
            return text
        reason = "it holds no settings"
    except (ValueError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
    raise ValueError(
        f"{path} cannot be read ({reason}), and the export's model card shows it: restore it, or move it away"
    )


def _read_results(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text("utf-8"))
        if isinstance(content["protocol"], dict) and all(map(_is_row, content["rows"])):
            return dict(content)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a results.json ({error}): pass what `fewstep evaluate` wrote") from error
    raise ValueError(f"{path} is not a results.json: pass what `fewstep evaluate` wrote")


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, dict) and isinstance(row.get("metrics", {}), dict) and isinstance(row.get("warnings", []), list)
    )
