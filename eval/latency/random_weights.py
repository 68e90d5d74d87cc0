"""A teacher of real size without its download: an architecture's configs, filled with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.families import FAMILIES
from fewstep.teacher.loading import find_device
from fewstep.teacher.pipelines.empty_parts import empty_part, make_pipeline
from fewstep.teacher.pipelines.parts import PipelinePart, named_parts
from fewstep.teacher.precision import stays_exact
from fewstep.teacher.shapes.text import make_tokenizer
from fewstep.teacher.source import read_json

_PACKAGED = Path(__file__).parent / "architectures"
_STD = 0.02


def architectures() -> list[str]:
    """Names of the packaged ones."""
    return sorted(path.name for path in _PACKAGED.iterdir() if path.is_dir())


def random_teacher(
    config: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    with_text: bool = True,
) -> Teacher:
    """A teacher of a packaged architecture, or of a pipeline's folder of which only the configs are read.

    Its clips mean nothing, but take as long as the real ones. A small word tokenizer stands in for the real one.
    Without text its text encoder is a single layer of few words: its embeddings have the right shape, its time says
    nothing. Raises ValueError for an unknown architecture or family, and for configs that are not whole.
    """
    folder, chosen = _folder(config), find_device(device)
    name = str(read_json(folder / "model_index.json").get("_class_name"))
    if name not in FAMILIES:
        raise ValueError(f"{folder} is a {name}, a family that fewstep does not know: use {', '.join(FAMILIES)}")
    named = named_parts(folder, name)
    # shapes from the configs alone, on the device meta, filled with numbers one by one
    parts: dict[str, Any] = {key: _part(folder / key, part, with_text) for key, part in named.items()}
    for key, part in parts.items():
        if isinstance(part, nn.Module):
            _fill(part, torch.float32 if key == "vae" else dtype, chosen)
    if "text_encoder" in parts:
        parts["tokenizer"] = _tokenizer(parts["text_encoder"])
    return FAMILIES[name](make_pipeline(folder, name, parts), folder)


def _folder(config: str) -> Path:
    packaged, given = _PACKAGED / config, Path(config).expanduser()
    for folder in (packaged, given) if config in architectures() else (given,):
        if (folder / "model_index.json").is_file():
            return folder
    raise ValueError(
        f"there is no architecture {config}: use {', '.join(architectures())}, or a folder with a pipeline's "
        "model_index.json and its parts' configs"
    )


def _part(folder: Path, part: PipelinePart, with_text: bool) -> Any:
    """A component without weights; None for one the pipeline does without."""

    def shorten(config: Any) -> None:
        if not with_text:
            config.num_hidden_layers, config.vocab_size = 1, len(make_tokenizer())

    return None if folder.name == "image_encoder" else empty_part(folder, part, shorten)


@torch.no_grad()
def _fill(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Small normal numbers for every parameter; some stay in float32, as they do when real weights are loaded."""
    generator = torch.Generator(device).manual_seed(0)
    filled: dict[nn.Parameter, nn.Parameter] = {}  # tied ones stay tied
    for path, part in module.named_modules():
        for name, empty in part._parameters.items():
            if empty is None:
                continue
            if empty not in filled:
                precision = torch.float32 if stays_exact(module, f"{path}.{name}", dtype) else dtype
                values = torch.empty(empty.shape, dtype=precision, device=device).normal_(0, _STD, generator=generator)
                filled[empty] = nn.Parameter(values, requires_grad=False)
            part._parameters[name] = filled[empty]
    module.to(device)  # the buffers


def _tokenizer(text_encoder: Any) -> Any:
    tokenizer = make_tokenizer()
    longest = getattr(text_encoder.config, "max_position_embeddings", None)
    if longest is not None:
        tokenizer.model_max_length = longest
    return tokenizer
