"""Where a teacher comes from: its name, its folder on this disk, and what the folder says about it."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fewstep.teacher.files.checksums import sha256
from fewstep.teacher.limits import MOST_FPS, MOST_FRAMES, MOST_PIXELS
from fewstep.teacher.pipelines.index import CLASSICAL_INDEX, MODULAR_INDEX, index_path, read_pipeline_index
from fewstep.teacher.pipelines.index import read_json as read_json
from fewstep.teacher.pipelines.modular import Classes, classical_class

SHAPES = "shapes"
PIPELINE = Path(__file__).parent / "shapes" / "pipeline"  # the embedded teacher of prompts
EMBEDDED = (SHAPES, "shapes-image", "shapes-control", "shapes-frame")  # teachers that come with fewstep

HUB_ID = r"\w[\w.-]*/[\w.-]+"  # a model on the hub, ORG/NAME
_SIZE_FILE = "fewstep.json"  # the size and rate of a teacher's clips, in its folder
_HASHED = {".safetensors", ".json", ".txt", ".model"}  # weights, configs, vocabularies
_CONFIGS = [CLASSICAL_INDEX, _SIZE_FILE, "*/config.json", "*/scheduler_config.json", "*/guider_config.json"]
# Who wrote a config, and from where: the same parts saved again by a newer library are the same teacher.
_ORIGIN = {"_name_or_path", "name_or_path", "_diffusers_version", "transformers_version"}


class VideoSize(NamedTuple):
    """Size of a clip; height and width in pixels."""

    num_frames: int
    height: int
    width: int


Sizes = VideoSize | Sequence[VideoSize]


def as_sizes(sizes: Sizes) -> tuple[VideoSize, ...]:
    """A size alone is one of one."""
    return (sizes,) if isinstance(sizes, VideoSize) else tuple(sizes)


def size_text(size: VideoSize) -> str:
    """As people write sizes, width x height x frames: 832x480x81."""
    return f"{size.width}x{size.height}x{size.num_frames}"


def read_size(text: str) -> VideoSize:
    """What `size_text` writes. Raises ValueError for other text."""
    numbers = [int(number) if number.isascii() and number.isdigit() else 0 for number in text.lower().split("x")]
    if len(numbers) != 3 or min(numbers) < 1:
        raise ValueError(f"{text!r} is not a size: write WIDTHxHEIGHTxFRAMES, such as 832x480x81")
    width, height, num_frames = numbers
    return VideoSize(num_frames, height, width)


def check_sizes(sizes: Sequence[VideoSize]) -> None:
    """Raises ValueError where there is none, or one is there twice."""
    if not sizes:
        raise ValueError("the list is empty: name at least one size, or leave it out")
    twice = [size for size in sizes if sizes.count(size) > 1]
    if twice:
        raise ValueError(f"{size_text(twice[0])} is listed twice: list each size once")


def embedded_path(name: str = SHAPES) -> Path:
    """The folder of an embedded teacher, a plain diffusers pipeline.

    That of prompts comes with fewstep; the others are put together in the user's cache when first asked for. Raises
    ValueError when a part is missing.
    """
    if not PIPELINE.exists():
        raise ValueError(
            f"the embedded teacher is not in {PIPELINE}: train it with "
            "`fewstep teacher train recipes/shapes-teacher.yaml`"
        )
    if name == SHAPES:
        return PIPELINE
    from fewstep.teacher.shapes.embedded import assembled

    return assembled(name.removeprefix(f"{SHAPES}-"), PIPELINE)


def find_teacher_folder(
    name: str | Path,
    known: tuple[str, ...],
    weights: bool = True,
    modular: Classes | None = None,
    refused: Mapping[str, str] | None = None,
) -> tuple[Path, str]:
    """The folder of a teacher, downloaded if `name` is a hub id, and the name of its pipeline class.

    Without `weights` only the configs of a hub id are downloaded. `modular` says which of the classes known are the
    same as a modular one, `refused` why a class cannot be a teacher. Raises ValueError when there is no such teacher,
    or its class is not one of `known` (before any download).
    """
    folder = embedded_path(str(name)) if name in EMBEDDED else Path(name).expanduser()
    # a folder of that name goes before the hub
    if not folder.exists() and re.fullmatch(HUB_ID, str(name)):
        return _download(str(name), known, weights, refused or {})
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: pass {SHAPES}, a diffusers pipeline's folder or a hub id")
    index = index_path(folder)
    if not index.is_file():
        raise ValueError(f"{folder} has no {CLASSICAL_INDEX}: pass the folder that a pipeline's save_pretrained wrote")
    if index.name == MODULAR_INDEX:
        return folder, classical_class(folder, modular or {})
    return folder, _known_class(read_json(index), str(folder), known, refused or {})


def call_defaults(pipeline_class: type) -> dict[str, Any]:
    """What a pipeline's call takes for arguments that are not given; those that must be given are left out."""
    parameters = inspect.signature(pipeline_class.__call__).parameters
    return {
        name: parameter.default for name, parameter in parameters.items() if parameter.default is not parameter.empty
    }


def default_size(folder: Path, pipeline_class: type) -> VideoSize | None:
    """The size the teacher was made for: from `fewstep.json` in its folder, else its pipeline's defaults.

    Raises ValueError for a size in fewstep.json that is not a whole number above 0.
    """
    sizes_file = folder / _SIZE_FILE
    # fewstep.json speaks for the whole size: what it leaves out is not taken from the pipeline
    if sizes_file.is_file():
        defaults = read_json(sizes_file)
        for name in VideoSize._fields:
            most = MOST_FRAMES if name == "num_frames" else MOST_PIXELS
            if (value := defaults.get(name)) is not None and (type(value) is not int or not 1 <= value <= most):
                raise ValueError(f"{sizes_file}: {name} is {value!r:.60}; it must be a whole number from 1 to {most}")
    else:
        defaults = call_defaults(pipeline_class)
    if not all(isinstance(defaults.get(name), int) for name in VideoSize._fields):
        return None
    return VideoSize(*(defaults[name] for name in VideoSize._fields))


def configured_fps(folder: Path) -> float | None:
    """The `fps` of a folder's `fewstep.json`, if it has one. Raises ValueError when it is not a rate."""
    sizes_file = folder / _SIZE_FILE
    fps = read_json(sizes_file).get("fps") if sizes_file.is_file() else None
    if fps is None:
        return None
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= MOST_FPS:
        raise ValueError(f"{sizes_file}: fps is {fps!r:.60}; it must be a number above 0 and up to {MOST_FPS:g}")
    return float(fps)


def teacher_sha256(folder: Path) -> str:
    """One hash over all in a pipeline's folder that decides its latents and embeddings, wherever it lies.

    That is its index and, in the folders of its parts, weights, configs, tokenizer and scheduler files; neither model
    cards and images nor `fewstep.json`, whose size and rate a dataset states itself.
    """
    index, parts = index_path(folder), read_pipeline_index(folder)
    names = [name for name, part in parts.items() if isinstance(part, list) and any(part)]
    files = [path for name in names for path in (folder / name).rglob("*") if path.suffix in _HASHED]
    digest = hashlib.sha256()
    # paths inside the folder, in order: a copy elsewhere has the same hash
    for path in sorted([index, *files]):
        digest.update(f"{path.relative_to(folder).as_posix()} {_content_sha256(path)}\n".encode())
    return digest.hexdigest()


def _content_sha256(path: Path) -> str:
    if path.name in (CLASSICAL_INDEX, MODULAR_INDEX) or path.name.endswith("config.json"):
        # of a modular index without where its parts were loaded from, which a folder that moves changes
        read = read_pipeline_index(path.parent) if path.name == MODULAR_INDEX else read_json(path)
        settings = {name: value for name, value in read.items() if name not in _ORIGIN}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return sha256(path)


def _download(name: str, known: tuple[str, ...], weights: bool, refused: Mapping[str, str]) -> tuple[Path, str]:
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    from fewstep.teacher.loading import quiet_libraries

    pipeline: Any = DiffusionPipeline
    # the index alone first: its class may be refused before gigabytes are downloaded
    try:
        with quiet_libraries():
            index = pipeline.load_config(name)
    except OSError as error:
        if _is_modular(name):
            raise ValueError(
                f"{name} is a modular pipeline on the hub, of which only a folder is read: `hf download {name} "
                "--local-dir DIR`, and pass DIR"
            ) from error
        raise ValueError(
            f"there is neither a folder nor a hub model {name} within reach: check the name, the "
            "network and, for a gated model, `hf auth login`"
        ) from error
    class_name = _known_class(index, name, known, refused)
    try:
        # an outline reads nothing but configs
        if not weights:
            return Path(snapshot_download(name, allow_patterns=_CONFIGS)), class_name
        # safetensors only: to load a pickle would run its code
        return Path(pipeline.download(name, use_safetensors=True)), class_name
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} could not be downloaded: {' '.join(str(error).split())}") from error


def _is_modular(name: str) -> bool:
    from huggingface_hub import hf_hub_download

    try:
        return bool(hf_hub_download(name, MODULAR_INDEX))
    except (OSError, ValueError):
        return False


def _known_class(index: dict[str, Any], name: str, known: tuple[str, ...], refused: Mapping[str, str]) -> str:
    class_name = str(index.get("_class_name") or "pipeline without _class_name")
    if why := refused.get(class_name):
        raise ValueError(f"{name} is {_with_article(class_name)}, which cannot be a teacher: {why}")
    if class_name not in known:
        raise ValueError(
            f"{name} is {_with_article(class_name[:80])}, a family that fewstep does not "
            f"know: use one of {', '.join(known)}, or add it (docs/adding-a-family.md)"
        )
    return class_name


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIO' else 'a'} {noun}"
