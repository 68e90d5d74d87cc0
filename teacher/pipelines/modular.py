"""Modular pipelines of diffusers, read as classical ones of the same parts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.teacher.pipelines.index import MODULAR_INDEX, index_path, read_json, read_pipeline_index

Classes = Mapping[str, Sequence[str]]  # a modular class -> classical ones, of which the first that has its parts counts


def classical_class(folder: Path, modular: Classes) -> str:
    """The classical class that is the same as the modular pipeline in `folder`.

    Its blocks decide, where the index names any: diffusers saves one of other blocks under a class of the same model.
    Raises ValueError for a class that is not among those of `modular`, and for blocks that are no class's own.
    """
    import diffusers

    index = read_json(folder / MODULAR_INDEX)
    class_name = str(index.get("_class_name"))
    if class_name not in modular:
        raise ValueError(
            f"{folder} is a modular pipeline, {class_name}, which fewstep does not know: use one of "
            f"{', '.join(modular)}, or a classical pipeline"
        )
    usual = {getattr(diffusers, name).default_blocks_name: name for name in modular}
    blocks = index.get("_blocks_class_name") or getattr(diffusers, class_name).default_blocks_name
    if blocks not in usual:
        raise ValueError(
            f"{folder} is a {class_name} of {blocks}, of which fewstep knows nothing: save a pipeline of "
            f"{' or '.join(usual)}, which from_pretrained makes where it is given no workflow"
        )
    # the parts in the folder tell text-to-video from image-to-video: the first class that finds all it needs
    named = {name for name, entry in read_pipeline_index(folder).items() if isinstance(entry, list) and any(entry)}
    classes, has = modular[usual[blocks]], {*named, *components_of_blocks(folder)}
    return next((name for name in classes if needed_parts(name) <= has), classes[-1])


def needed_parts(class_name: str) -> set[str]:
    """The parts without which diffusers makes no pipeline of this classical class."""
    import diffusers

    kind: Any = getattr(diffusers, class_name)
    parameters = inspect.signature(kind.__init__).parameters
    needed = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    return needed - {"self", *kind._optional_components}


def components_of_blocks(folder: Path) -> dict[str, Any]:
    """What a modular pipeline makes itself, without weights or a folder, such as its guidance: name -> specification,
    whose `create()` makes it. {} of a classical pipeline.
    """
    import diffusers

    path = index_path(folder)
    if path.name != MODULAR_INDEX:
        return {}
    index = read_json(path)
    kind: Any = getattr(diffusers, str(index.get("_class_name")), None)
    named = index.get("_blocks_class_name") or getattr(kind, "default_blocks_name", None)
    blocks: Any = getattr(diffusers, str(named), None)
    if blocks is None:
        return {}
    return {spec.name: spec for spec in blocks().expected_components if spec.default_creation_method == "from_config"}
