"""The parts that a pipeline's folder must hold: which is missing, cut off or damaged, without loading one."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from fewstep.teacher.pipelines.index import index_path, read_json, read_pipeline_index
from fewstep.teacher.pipelines.modular import components_of_blocks, needed_parts
from fewstep.teacher.pipelines.weight_files import RESTORE, Shapes, check_text_file, read_index, tensor_shapes

DENOISERS = ("transformer", "transformer_2", "unet")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}  # names of files, without suffix


class PipelinePart(NamedTuple):
    """A part as model_index.json names it: the library and the class that load it."""

    library: str
    class_name: str


def named_parts(folder: Path, class_name: str) -> dict[str, PipelinePart]:
    """The parts that the pipeline's class takes and its index names.

    Raises ValueError when one that the class needs is not among them, and for an entry that is not a part.
    """
    import diffusers

    index, kind = index_path(folder), getattr(diffusers, class_name)
    parameters = inspect.signature(kind.__init__).parameters  # diffusers leaves other entries alone
    parts = {}
    # what else is in the index are settings, and parts that this class does not take
    for name, entry in read_pipeline_index(folder).items():
        if name in parameters and isinstance(entry, list) and any(entry):
            if len(entry) != 2 or not all(isinstance(word, str) for word in entry):
                raise ValueError(f"{index} has {name}: {entry}, which is not a pair of library and class: {RESTORE}")
            parts[name] = PipelinePart(*entry)
    # a modular pipeline makes some parts itself, which then need no folder
    needed = needed_parts(class_name) - components_of_blocks(folder).keys()
    if missing := [name for name in parameters if name in needed and name not in parts]:
        raise ValueError(f"{index} names no {missing[0]}, and {class_name} needs one: {RESTORE}")
    if not set(DENOISERS) & parts.keys():
        raise ValueError(f"{index} names no denoiser ({', '.join(DENOISERS)}): {RESTORE}")
    return parts


def find_class(folder: Path, part: PipelinePart) -> Any:
    """The class of the part in `folder`, None where neither diffusers nor transformers is to load it.

    Raises ValueError when the installed library has no such class.
    """
    import diffusers
    import transformers

    library: Any = {"diffusers": diffusers, "transformers": transformers}.get(part.library)
    if library is None:
        return None
    part_class = getattr(library, part.class_name, None)
    if part_class is None:
        raise ValueError(
            f"{index_path(folder.parent)} names {part.class_name} for {folder.name}, which {part.library} "
            f"{library.__version__} does not have: upgrade {part.library}, or use another teacher"
        )
    return part_class


def check_pipeline_part(folder: Path, part: PipelinePart) -> None:
    """Raises ValueError when the part's folder or one of its configs or vocabularies is missing or not whole."""
    if not folder.is_dir():
        index = index_path(folder.parent).name
        raise ValueError(f"{folder} is missing, the {part.class_name} that {index} names: {RESTORE}")
    # configs and vocabularies only: weights are looked at by their headers, in `weight_shapes`
    for path in sorted(folder.glob("*.json")):
        if not path.name.endswith(".index.json"):
            check_text_file(path)
    kind = find_class(folder, part)
    if hasattr(kind, "vocab_files_names"):
        _check_vocabulary(folder, kind)
    elif hasattr(kind, "from_config") or hasattr(kind, "state_dict"):
        config = folder / ("config.json" if hasattr(kind, "state_dict") else kind.config_name)
        if not config.is_file():
            raise ValueError(f"{config} is missing: {RESTORE}")
        read_json(config)


def load_tokenizer(folder: Path, part: PipelinePart) -> Any:
    """The tokenizer in a part's folder, None for any other part. Raises ValueError when its files are damaged."""
    kind = find_class(folder, part)
    if not hasattr(kind, "vocab_files_names"):
        return None
    try:
        tokenizer = kind.from_pretrained(folder)
    except Exception as error:  # a file may be damaged in any way, and libraries raise a dozen kinds for it
        # without sentencepiece a vocabulary that is whole cannot be read either
        if any(folder.glob("*.model")) and find_spec("sentencepiece") is None:
            raise ValueError(f"{folder} needs a library to be read: pip install sentencepiece") from error
        names = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file()))
        index = index_path(folder.parent).name
        raise ValueError(
            f"{folder} makes no {part.class_name}, which {index} names; one of {names} is damaged: {RESTORE}"
        ) from error
    if tokenizer.pad_token is None:
        raise ValueError(f"{folder}/tokenizer_config.json names no pad_token, with which prompts are padded: {RESTORE}")
    return tokenizer


def weight_shapes(folder: Path, library: str, remedy: str = RESTORE) -> Shapes:
    """Name -> shape of all weights that `library` (diffusers or transformers) would load from a part's folder.

    Raises ValueError for files that are missing, cut off or pickles.
    """
    single = folder / f"{_WEIGHTS[library]}.safetensors"
    index = single.with_name(f"{single.name}.index.json")
    # diffusers prefers shards where there are both, transformers the single file
    if index.is_file() and (library == "diffusers" or not single.is_file()):
        shapes: Shapes = {}
        for shard, names in read_index(index, remedy).items():
            held = tensor_shapes(folder / shard, remedy)
            if lacking := set(names) - held.keys():
                raise ValueError(f"{folder / shard} lacks {min(lacking)}, which {index.name} says it holds: {remedy}")
            shapes |= held
        return shapes
    if not single.is_file():
        raise ValueError(_missing_weights(single, remedy))
    return tensor_shapes(single, remedy)


def _check_vocabulary(folder: Path, kind: Any) -> None:
    """A tokenizer.json, or all that its class is made from without one."""
    apart = dict(kind.vocab_files_names)
    whole = apart.pop("tokenizer_file", None)
    vocabulary = [*folder.glob("*.model"), *folder.glob("*.txt"), *folder.glob("*.tiktoken")]
    for path in vocabulary:
        check_text_file(path)
    if (whole and (folder / whole).is_file()) or any(path.suffix == ".model" for path in vocabulary):
        return
    missing = [name for name in apart.values() if not (folder / name).is_file()]
    if missing:
        instead = f" (nor {whole} in its place)" if whole else ""
        raise ValueError(f"{folder} holds no {' and no '.join(missing)}{instead}, its vocabulary: {RESTORE}")


def _missing_weights(single: Path, remedy: str) -> str:
    folder = single.parent
    if single.is_symlink() or single.exists():
        return f"{single} is no file, or a link to one that is not there: {remedy}"
    if pickles := sorted(path for path in folder.iterdir() if path.suffix in _PICKLES):
        return (
            f"{pickles[0]} is a pickle, and there is no safetensors file next to it: save the pipeline again "
            "with safe_serialization=True"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return f"{single} is missing; {folder} holds only {', '.join(others[:3])}: {remedy}"
    return f"{single} is missing: {remedy}"


def has_weights(folder: Path, class_name: str) -> bool:
    """Whether all files of weights are there, whole or not: a download links each as soon as it has all of it."""
    for name, part in named_parts(folder, class_name).items():
        kind = find_class(folder / name, part)
        if hasattr(kind, "state_dict") and not _all_there(folder / name, part.library):
            return False
        if hasattr(kind, "vocab_files_names") and not (folder / name).is_dir():
            return False
    return True


def _all_there(folder: Path, library: str) -> bool:
    single = folder / f"{_WEIGHTS[library]}.safetensors"
    index = single.with_name(f"{single.name}.index.json")
    return single.is_file() or (index.is_file() and all((folder / shard).is_file() for shard in read_index(index)))
