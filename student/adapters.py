"""LoRA adapters (arXiv 2106.09685) on shared weights: several networks, one copy of what they have in common."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from fewstep.teacher.bases import Kinds, part_names
from fewstep.teacher.bases import shared_copy as shared_copy
from fewstep.teacher.experts import parts_of
from fewstep.teacher.files.json_text import parse_json
from fewstep.teacher.pipelines.weight_files import tensor_shapes

ADAPTER_FILE = "adapter.safetensors"
_CONFIG = "lora_adapter_metadata"  # diffusers' name for the adapter's settings in a file's header
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def add_adapter(
    network: nn.Module,
    name: str,
    rank: int,
    alpha: float,
    targets: Sequence[str] | None = None,
    kinds: Kinds | None = None,
) -> None:
    """Puts a fresh adapter on, which changes nothing yet; only its parameters, in float32, are trained then.

    Experts get one each. kinds: only inside modules of these classes. Raises ValueError for a target that no module is
    called, or that LoRA cannot adapt.
    """
    for part in parts_of(network).values():
        if targets:
            _check_targets(part, targets)
        chosen: Any = {"lora_alpha": alpha, "target_modules": _chosen(part, targets, kinds)}
        _inject(part, name, LoraConfig(r=rank, **chosen))


def load_adapter(network: nn.Module, name: str, folder: Path) -> None:
    """Puts on what `save_adapter` wrote. Raises ValueError when the file is broken or of another network."""
    path = folder / ADAPTER_FILE
    try:
        with safe_open(path, framework="pt") as file:
            config = LoraConfig(**parse_json((file.metadata() or {})[_CONFIG]))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        _inject(network, name, config)
        keys: Any = set_peft_model_state_dict(network, state, name)
        # peft names the base's weights as missing as well, which were never in the file
        missing = [key for key in keys.missing_keys if f".{name}." in key]
        if missing or keys.unexpected_keys:
            raise ValueError(f"its weights do not fit: {[*missing, *keys.unexpected_keys][0]}")
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is broken or of another network ({reason}): restore it, or train it again") from error


def save_adapter(network: Any, name: str, folder: Path) -> None:
    """Writes one adapter under peft's names, its settings in the header; safetensors."""
    settings = network.peft_config[name].to_dict()
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    state = get_peft_model_state_dict(network, adapter_name=name)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    save_file(state, folder / ADAPTER_FILE, {"format": "pt", _CONFIG: json.dumps(settings, sort_keys=True)})


@torch.no_grad()
def merge_adapters(network: nn.Module) -> None:
    """Adds the adapters into the network's weights, which must be its own: a plain network again."""
    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    remove_adapters(network)


def remove_adapters(network: nn.Module) -> None:
    """Takes the adapters off; what was not merged is gone."""
    layers = [(name, module) for name, module in network.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, layer in layers:
        network.set_submodule(name, layer.get_base_layer())
    for part in parts_of(network).values():
        vars(part).pop("peft_config", None)


def adapter_parameters(network: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """An adapter's parameters by their name in the network."""
    return {key: parameter for key, parameter in network.named_parameters() if f".{name}." in key}


def num_adapter_parameters(
    network: nn.Module, rank: int, alpha: float, targets: Sequence[str] | None = None, kinds: Kinds | None = None
) -> int:
    """How many parameters such an adapter has on the network, which may have no weights, and is left as it is.

    Raises ValueError as `add_adapter` does.
    """
    with torch.device("meta"):
        adapted = shared_copy(network)
        add_adapter(adapted, "adapter", rank, alpha, targets, kinds)
    return sum(parameter.numel() for parameter in adapter_parameters(adapted, "adapter").values())


def lora_targets(network: nn.Module) -> list[str]:
    """Every linear and convolution inside the network's blocks, but neither in- and out-layers nor shared embeddings
    of time and text (SDXL-Lightning, arXiv 2402.13929).

    Convolutions with groups are left out: LoRA on them cannot be merged. Raises ValueError for a network without
    blocks.
    """
    targets = [n for n, m in network.named_modules() if _adaptable(m) and "block" in n.split(".")[0]]
    if not targets:
        raise ValueError(f"{type(network).__name__} has no blocks for LoRA: name its modules as student.lora.targets")
    return targets


def _chosen(network: nn.Module, targets: Sequence[str] | None, kinds: Kinds | None) -> list[str]:
    """Targets for peft: unchanged, or all modules inside `kinds` that they match."""
    if kinds is None:
        return list(targets or lora_targets(network))
    # peft matches names in the whole network, so the modules of the part are named one by one
    inside = tuple(f"{name}." for name in part_names(network, kinds))
    chosen = [name for name in lora_targets(network) if name.startswith(inside)]
    if targets:
        chosen = [name for name in chosen if any(f".{name}".endswith(f".{target}") for target in targets)]
    if not chosen:
        raise ValueError("student.lora.targets: none of them lies in the part that student.only names: leave them out")
    return chosen


def check_adapter(network: nn.Module, folder: Path, remedy: str) -> None:
    """Raises ValueError, with `remedy`, when what `save_adapter` wrote is cut off or of another network than this one,
    which may have no weights; only the file's header is read."""
    path = folder / ADAPTER_FILE
    shapes, adapted = tensor_shapes(path, remedy), shared_copy(network)
    try:
        # an adapter of the same settings on a copy: the file must have its very shapes
        with safe_open(path, framework="pt") as file:
            config = LoraConfig(**parse_json((file.metadata() or {})[_CONFIG]))
        _inject(adapted, "adapter", config)
    except (KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is broken or of another network ({reason}): {remedy}") from error
    own = {key: tuple(w.shape) for key, w in get_peft_model_state_dict(adapted, adapter_name="adapter").items()}
    if wrong := sorted(key for key in own.keys() | shapes.keys() if own.get(key) != shapes.get(key)):
        raise ValueError(
            f"{path} is of another network than {type(network).__name__}: it has {wrong[0]} of shape "
            f"{shapes.get(wrong[0])}, which should be {own.get(wrong[0])}; {remedy}"
        )


def _check_targets(network: nn.Module, targets: Sequence[str]) -> None:
    """peft leaves out a target that fits nothing without a word, as long as another one fits."""
    modules = dict(network.named_modules())
    known = sorted({name.split(".", 2)[-1] for name in lora_targets(network)})
    for target in targets:
        fitting = {name: module for name, module in modules.items() if f".{name}".endswith(f".{target}")}
        if not fitting:
            close = get_close_matches(target, known, n=3, cutoff=0.5) or known[:8]
            raise ValueError(
                f"student.lora.targets: {type(network).__name__} has no module called {target}; use names such as "
                f"{', '.join(close)}, or null for all linears and convolutions of its blocks"
            )
        # one target may mean several modules, and LoRA must be able to adapt and merge each
        for name, module in fitting.items():
            if isinstance(module, _KINDS) and not _adaptable(module):
                raise ValueError(
                    f"student.lora.targets: {target} means {name}, a convolution of {module.groups} groups, on "
                    f"which LoRA cannot be merged: leave it out, and name others, such as {', '.join(known[:3])}"
                )
            if not isinstance(module, _KINDS):
                raise ValueError(
                    f"student.lora.targets: {target} means {name}, a {type(module).__name__}, which LoRA cannot adapt: "
                    f"name linears and convolutions, such as {', '.join(known[:3])}"
                )


def _adaptable(module: nn.Module) -> bool:
    return isinstance(module, _KINDS) and getattr(module, "groups", 1) == 1


def _inject(network: nn.Module, name: str, config: LoraConfig) -> None:
    with warnings.catch_warnings():
        # on a base of few bits, which nothing is merged into
        warnings.filterwarnings("ignore", "TorchaoLoraLinear was instantiated without")
        inject_adapter_in_model(config, network, name)
    for parameter in adapter_parameters(network, name).values():
        parameter.data = parameter.data.float()  # in bfloat16 an adapter would lose small updates
        parameter.requires_grad_(True)
