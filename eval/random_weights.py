"""A teacher of real size without its download: an architecture's configs, filled with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.families import FAMILIES
from fewstep.teacher.loading import find_device
from fewstep.teacher.shapes.text import make_tokenizer

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
    index = _read(folder / "model_index.json")
    name = index.get("_class_name")
    if name not in FAMILIES:
        raise ValueError(f"{folder} is a {name}, a family that fewstep does not know: use {', '.join(FAMILIES)}")
    parts: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    for key, value in index.items():
        if isinstance(value, list):
            library, part_name = value
            parts[key] = _part(folder / key, library, part_name, with_text)
        elif not key.startswith("_"):
            settings[key] = value
    for key, part in parts.items():
        if isinstance(part, nn.Module):
            _fill(part, torch.float32 if key == "vae" else dtype, chosen)
    parts["tokenizer"] = _tokenizer(parts["text_encoder"])
    import diffusers

    pipeline = getattr(diffusers, str(name))(**parts, **settings)
    return FAMILIES[name](pipeline, folder)


def _folder(config: str) -> Path:
    packaged, given = _PACKAGED / config, Path(config).expanduser()
    for folder in (packaged, given) if config in architectures() else (given,):
        if (folder / "model_index.json").is_file():
            return folder
    raise ValueError(
        f"there is no architecture {config}: use {', '.join(architectures())}, or a folder with a pipeline's "
        "model_index.json and its parts' configs"
    )


def _part(folder: Path, library: str | None, name: str | None, with_text: bool) -> Any:
    """A component on the device meta, all but its buffers; None for one the pipeline does without."""
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    if name is None or folder.name in ("tokenizer", "image_encoder", "feature_extractor"):
        return None
    try:
        if library == "transformers":
            config: Any = transformers.AutoConfig.from_pretrained(folder)
            if not with_text:
                config.num_hidden_layers, config.vocab_size = 1, len(make_tokenizer())
            with init_empty_weights(include_buffers=False):
                encoder = getattr(transformers, name)(config)
            encoder.tie_weights()  # which the line above undid
            return encoder
        kind: Any = getattr(diffusers, name)
        with init_empty_weights(include_buffers=False):
            return kind.from_config(kind.load_config(folder))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{folder} does not describe a {name} ({error}): restore its config") from error


@torch.no_grad()
def _fill(module: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
    """Small normal numbers for every parameter; some stay in float32, as they do when real weights are loaded."""
    from transformers import PreTrainedModel

    generator = torch.Generator(device).manual_seed(0)
    exact = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    if isinstance(module, PreTrainedModel) and dtype != torch.float16:  # transformers keeps them for float16 alone
        exact = set()
    filled: dict[nn.Parameter, nn.Parameter] = {}  # tied ones stay tied
    for path, part in module.named_modules():
        for name, empty in part._parameters.items():
            if empty is None:
                continue
            if empty not in filled:
                precision = torch.float32 if exact & {*path.split("."), name} else dtype
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


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object ({error}): restore it from where it came from") from error
