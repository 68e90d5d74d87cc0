"""LoRAs as ComfyUI reads them: under original names, with whole differences of modules' weights that are no matrix."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.student.denoiser import single_denoiser
from fewstep.student.export.abilities import original_names
from fewstep.student.export.lora import baked_state, prefix_of
from fewstep.student.export.lora_extraction import changes_of, factors, share_held, square_of
from fewstep.teacher.base import Teacher

PREFIX = "diffusion_model."
_DOWN, _UP, _ALPHA, _WHOLE, _BIAS = ".lora_A.weight", ".lora_B.weight", ".alpha", ".diff", ".diff_b"


def adapter_tensors(teacher: Teacher, network: Any) -> dict[str, Tensor]:
    """An adapter's tensors, at the strength of 1. Raises ValueError for modules that diffusers' loader of such files
    leaves out, since nothing could then be compared."""
    state = baked_state(network)
    tensors = {}
    for key, tensor in state.items():
        if key.endswith(".lora_B.bias"):
            tensors[_original(teacher, key.removesuffix(".lora_B.bias"), _BIAS)] = tensor
        else:
            tensors[_original(teacher, key)] = tensor
    _check_carried(teacher, tensors, state)
    return _with_alphas(tensors)


def extracted_tensors(teacher: Teacher, network: nn.Module, rank: int) -> tuple[dict[str, Tensor], float]:
    """What is nearest to a fully trained network at this rank, and how much of the change of weights it holds.

    Matrices are held by LoRAs; biases, norms and convolutions, which are few weights, as whole differences. Tables are
    not held: ComfyUI patches what is a module's weight or bias alone.
    """
    base, tensors, held = single_denoiser(teacher), dict[str, Tensor](), 0.0
    changes = changes_of(base, network)
    linears = {f"{name}.weight" for name, module in base.named_modules() if isinstance(module, nn.Linear)}
    for name, change in changes.items():
        if name in linears:
            down, up = factors(change, rank)
            module = name.removesuffix(".weight")
            tensors |= {_original(teacher, module, _DOWN): down, _original(teacher, module, _UP): up}
            held += square_of(down, up)
        elif name.endswith((".weight", ".bias")):
            tensors[_difference(teacher, name)] = change
            held += float(change.square().sum())
    stored = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return _with_alphas(stored), share_held(held, changes)


def is_extracted(state: Collection[str]) -> bool:
    """Whether a file's tensors are of a fully trained network: an adapter has no whole differences."""
    return any(key.endswith((_WHOLE, _BIAS)) for key in state)


@torch.no_grad()
def patched(teacher: Teacher, state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """The teacher's denoiser with a file's changes added, as ComfyUI adds them. Raises ValueError when one does not
    fit."""
    network: nn.Module = deepcopy(single_denoiser(teacher))
    parameters = {f"{PREFIX}{original_names(teacher).to_original(n)}": p for n, p in network.named_parameters()}
    for key, change in _changes(state).items():
        if key not in parameters or parameters[key].shape != change.shape:
            raise ValueError(
                f"{path} is not a LoRA for {teacher.folder} (its {key} does not fit): use its own teacher (--teacher "
                "of `fewstep sample` and `fewstep export`)"
            )
        parameters[key].add_(change.to(parameters[key]))
    return network.requires_grad_(False)


def _changes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameter under its original name -> what is added to it."""
    changes = {}
    for key, tensor in state.items():
        if key.endswith(_DOWN):
            module = key.removesuffix(_DOWN)
            # what is added to W: (alpha / r) B A (LoRA, arXiv 2106.09685)
            up, alpha = state[module + _UP], state.get(module + _ALPHA, torch.tensor(float(len(tensor))))
            changes[f"{module}.weight"] = (alpha / len(tensor)) * (up.flatten(1).float() @ tensor.flatten(1).float())
        elif key.endswith(_BIAS):
            changes[f"{key.removesuffix(_BIAS)}.bias"] = tensor
        elif key.endswith(_WHOLE):
            changes[f"{key.removesuffix(_WHOLE)}.weight"] = tensor
    return changes


def _with_alphas(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With alpha = rank for each LoRA in a block; elsewhere diffusers' loader stumbles over it, and without one the
    scale is the same."""
    ranks = {key.removesuffix(_DOWN): len(tensor) for key, tensor in tensors.items() if key.endswith(_DOWN)}
    inner = {name: rank for name, rank in ranks.items() if name.startswith(f"{PREFIX}blocks.")}
    return tensors | {f"{name}{_ALPHA}": torch.tensor(float(rank)) for name, rank in inner.items()}


def _original(teacher: Teacher, name: str, suffix: str = "") -> str:
    """A module's tensor under the original name of the module."""
    if not suffix:
        return PREFIX + original_names(teacher).to_original(name)
    return PREFIX + original_names(teacher).to_original(f"{name}.weight").removesuffix(".weight") + suffix


def _difference(teacher: Teacher, name: str) -> str:
    """The name of a whole difference of a parameter."""
    original = PREFIX + original_names(teacher).to_original(name)
    if original.endswith(".bias"):
        return original.removesuffix(".bias") + _BIAS
    return original.removesuffix(".weight") + _WHOLE


def _check_carried(teacher: Teacher, tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    modules = sorted({_module(key) for key in state})
    inner = [name for name in modules if name.startswith("blocks.")]
    if inner and _carries(teacher, tensors, state, modules):
        return
    # to name those at fault: each module outside of blocks, besides all that are in blocks
    lost = [name for name in modules if name not in inner and not _carries(teacher, tensors, state, [*inner, name])]
    why = f"takes no LoRA on {', '.join(lost or inner)}"
    if not inner:
        why = f"takes none without modules in blocks, and this one is on {', '.join(modules)} alone"
    raise ValueError(
        f"comfyui cannot carry this LoRA: diffusers' loader of such files, by which it is compared, {why}; export it "
        "--to lora, which is for diffusers, or whole, --to single-file, which ComfyUI loads as well"
    )


def _carries(
    teacher: Teacher, tensors_written: Mapping[str, Tensor], state: Mapping[str, Tensor], modules: Collection[str]
) -> bool:
    """Whether diffusers' loader makes of these modules what they were."""
    kept = {key for key in state if _module(key) in modules}
    written = {
        written: tensor for key, (written, tensor) in zip(state, tensors_written.items(), strict=True) if key in kept
    }
    try:
        loaded = type(teacher.pipeline).lora_state_dict(written)
    except (ValueError, KeyError):
        return False
    return {key.removeprefix(f"{prefix_of(teacher)}.") for key in loaded} == kept


def _module(key: str) -> str:
    return key.partition(".lora_")[0]
