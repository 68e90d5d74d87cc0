"""A pipeline's parts from their configs alone: networks of the right shapes on the device meta, but no weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from fewstep.teacher.pipelines.config_counts import check_counts
from fewstep.teacher.pipelines.index import index_path, read_json, read_pipeline_index
from fewstep.teacher.pipelines.modular import components_of_blocks
from fewstep.teacher.pipelines.parts import (
    PipelinePart,
    check_pipeline_part,
    find_class,
    load_tokenizer,
    named_parts,
    weight_shapes,
)
from fewstep.teacher.pipelines.weight_files import RESTORE, Shapes

if TYPE_CHECKING:
    from fewstep.teacher.base import Teacher


def outlined(
    family: type[Teacher], folder: Path, class_name: str, shift: float | None = None, weights: bool = True
) -> Teacher:
    """The family's teacher around `empty_pipeline`, with this shift in place of its own.

    Raises ValueError as that does, and for what the family cannot be or sample.
    """
    with as_config_error(folder):
        family.check_folder(folder, read_pipeline_index(folder))
        teacher = family(empty_pipeline(folder, class_name, weights), folder)
        teacher.use_shift(shift)
        _check_token_ids(teacher.pipeline, folder)
        _check_latents(teacher)
    return teacher


def _check_latents(teacher: Teacher) -> None:
    """Raises ValueError when the latents of the teacher's own size have a shape that no tensor can have."""
    size = teacher.default_size()
    try:
        shape = None if size is None else teacher.latent_shape(*size)
    except ValueError:  # the error appears when clips of this size are requested
        return
    if shape is not None and not all(type(side) is int and side > 0 for side in shape):
        raise ValueError(
            f"the configs in {teacher.folder} make latents of shape {list(shape)!s:.80}, which no tensor has: {RESTORE}"
        )


def _check_token_ids(pipeline: Any, folder: Path) -> None:
    """Raises ValueError when a text encoder has no embedding of the token that prompts are padded or ended with."""
    from transformers import PreTrainedModel

    # pipelines have up to three text encoders, each with its tokenizer
    for ending in ("", "_2", "_3"):
        tokenizer, encoder = (getattr(pipeline, f"{part}{ending}", None) for part in ("tokenizer", "text_encoder"))
        embeddings = encoder.get_input_embeddings() if isinstance(encoder, PreTrainedModel) else None
        known = getattr(embeddings, "num_embeddings", None)
        for name in ("pad_token_id", "eos_token_id"):
            token = getattr(tokenizer, name, None)
            if known is not None and token is not None and not 0 <= token < known:
                raise ValueError(
                    f"the tokenizer in {folder / f'tokenizer{ending}'} has {name} {token}, and the text encoder knows "
                    f"{known} tokens: {RESTORE}"
                )


@contextmanager
def as_config_error(folder: Path) -> Iterator[None]:
    """Whatever a value of a wrong kind in a folder's configs leads to inside the block becomes a ValueError.

    What libraries and families read of configs is theirs, and none of them checks all of it.
    """
    try:
        yield
    except (TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"the configs in {folder} describe no teacher ({type(error).__name__}: {reason}), so a value in one of "
            f"them is not what it should be: {RESTORE}"
        ) from error


def empty_parts(folder: Path, class_name: str, weights: bool = True) -> dict[str, Any]:
    """Every part that the pipeline class takes, by name: networks without weights, schedulers, tokenizers.

    With `weights`, the folder must hold them, and they must fill the networks; only headers of files are read. Else
    tokenizers are None, too. Raises ValueError naming the part and the file that is missing, cut off, or not what its
    config says.
    """
    parts = named_parts(folder, class_name)
    made = {}
    for name, part in parts.items():
        # files first, then the class, then shapes: the first thing that is wrong is the one to report
        if weights:
            check_pipeline_part(folder / name, part)
        made[name] = (load_tokenizer(folder / name, part) if weights else None) or empty_part(folder / name, part)
        if weights and isinstance(made[name], nn.Module):
            shapes = weight_shapes(folder / name, part.library)
            if "quantization_config" not in read_json(folder / name / "config.json"):  # which changes names and shapes
                check_shapes(folder / name, made[name], shapes)
    return made


def empty_pipeline(folder: Path, class_name: str, weights: bool = True) -> Any:
    """The pipeline around `empty_parts`. Raises ValueError as it does, and when the parts do not go together."""
    parts = empty_parts(folder, class_name, weights)
    with _without_weights(include_buffers=True):  # a pipeline may put networks together from its parts
        return make_pipeline(folder, class_name, parts)


def make_pipeline(folder: Path, class_name: str, parts: Mapping[str, Any]) -> Any:
    """The pipeline of these parts, with None for the others and the settings that the folder's model_index.json has.

    Of a modular one, what its blocks make without weights, such as guidance, is made here.

    Raises ValueError when they do not go together.
    """
    import diffusers

    kind = getattr(diffusers, class_name)
    taken = inspect.signature(kind.__init__).parameters  # diffusers leaves other entries alone
    # settings of the index that the class takes, such as Wan's boundary_ratio; lists are parts
    settings = {n: v for n, v in read_pipeline_index(folder).items() if n in taken and not isinstance(v, list)}
    made = {n: spec.create() for n, spec in components_of_blocks(folder).items() if n in taken and n not in parts}
    try:
        return kind(**{**dict.fromkeys(kind._optional_components), **settings, **made, **parts})
    except (TypeError, ValueError, AttributeError) as error:
        index = index_path(folder)
        raise ValueError(f"the parts that {index} names make no {class_name} ({error}): {RESTORE}") from error


def empty_part(folder: Path, part: PipelinePart, change: Callable[[Any], None] | None = None) -> Any:
    """The part in `folder` as its config says, networks on the device meta but for their buffers.

    `change` may alter a config of transformers. None for tokenizers, processors, and what neither diffusers nor
    transformers loads. Raises ValueError for a config that does not describe such a part.
    """
    kind = find_class(folder, part)
    if kind is None or not (hasattr(kind, "state_dict") or hasattr(kind, "from_config")):
        return None
    check_counts(folder / ("config.json" if hasattr(kind, "state_dict") else kind.config_name))
    try:
        # buffers are real: some are computed as a network is made, and lie in no file
        with _without_weights(include_buffers=False):
            made = _of_transformers(kind, folder, change) if part.library == "transformers" else _made(kind, folder)
    except Exception as error:  # a config may be wrong in any way, and libraries raise a dozen kinds for it
        reason, index = " ".join(str(error).split()), index_path(folder.parent).name
        raise ValueError(
            f"{folder} does not describe the {part.class_name} that {index} names ({reason}): {RESTORE}"
        ) from error
    if part.library == "transformers":
        made.tie_weights()  # which init_empty_weights undid
    return made


@contextmanager
def _without_weights(include_buffers: bool) -> Iterator[None]:
    """Networks that are made inside the block have parameters on the device meta, which nothing initializes."""
    from accelerate import init_empty_weights
    from transformers.initialization import no_init_weights

    # random numbers are drawn on this device, too, if nowhere else: that takes longer than all the rest
    with init_empty_weights(include_buffers), no_init_weights():
        yield


def check_shapes(folder: Path, network: nn.Module, shapes: Shapes, remedy: str = RESTORE) -> None:
    """Raises ValueError when weights of these shapes, which lie in `folder`, do not fit `network` or leave some out."""
    # tied weights are one tensor under several names
    own = {name: (id(tensor), tuple(tensor.shape)) for name, tensor in network.state_dict(keep_vars=True).items()}
    for name, (_, shape) in own.items():
        if shapes.get(name, shape) != shape:
            raise ValueError(
                f"the weights in {folder} have {name} of shape {list(shapes[name])}, but the network takes "
                f"{list(shape)}: {remedy}"
            )
    filled = {tensor for name, (tensor, _) in own.items() if name in shapes}  # one that is tied fills the other
    # what the library renames as it loads lies there under another name, with the same shape
    renamed = {shape for name, shape in shapes.items() if name not in own}
    missing = [name for name, (tensor, shape) in own.items() if tensor not in filled and shape not in renamed]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise ValueError(
            f"the weights in {folder} lack {missing[0]}{more}, which would be filled with random numbers: {remedy}"
        )


def _of_transformers(kind: Any, folder: Path, change: Callable[[Any], None] | None) -> Any:
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(folder)
    if change is not None:
        change(config)
    return kind(config)


def _made(kind: Any, folder: Path) -> Any:
    return kind.from_config(kind.load_config(folder))
