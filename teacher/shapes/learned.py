"""What a conditioned teacher of the shapes world learned beyond the embedded one, as a small file, and its pipeline.

The file holds whole tensors, which replace or join those of the text teacher's transformer, and pairs `.lora_A` and
`.lora_B`, whose product is added to them. Assembled, it is a plain pipeline's folder that diffusers loads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import WanVACETransformer3DModel
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fewstep.teacher.files.atomic import whole_file
from fewstep.teacher.shapes.linear_code import LINEAR_CODE

ConditioningKind = Literal["image", "control", "frame"]
LEARNED_FILE = "learned.safetensors"
_WEIGHTS, _CONFIG = "diffusion_pytorch_model.safetensors", "config.json"
_BESIDE = "fewstep.json"  # size and rate of clips
_PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")  # taken over as they are
_A, _B = ".lora_A", ".lora_B"
_ADAPTED = ["to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2"]  # of each block, as peft matches names
_BRANCH = ("vace_blocks.", "vace_patch_embedding.")


def start_tensors(kind: ConditioningKind, start: Path, layers: tuple[int, ...], seed: int) -> dict[str, Tensor]:
    """What training begins with: a transformer that answers as the text teacher does, whatever is given."""
    base, config = _read(start)
    torch.manual_seed(seed)
    if kind == "frame":  # an adapter alone, which begins as nothing
        return {}
    if kind == "image":  # channels of given frames and their mask, which count for nothing yet
        weight = base["patch_embedding.weight"]
        for_given = weight.new_zeros(weight.shape[0], weight.shape[1] + 4, *weight.shape[2:])
        return {"patch_embedding.weight": torch.cat([weight, for_given], dim=1)}
    # boxes: a branch of copies of some blocks, whose outputs begin at zero
    branch = WanVACETransformer3DModel.from_config(_config(kind, config, layers))
    for block, layer in zip(branch.vace_blocks, layers, strict=True):
        own = {name.removeprefix(f"blocks.{layer}."): x for name, x in base.items() if f"blocks.{layer}." in name}
        block.load_state_dict(own, strict=False)  # but for the projections, which blocks do not have
        nn.init.zeros_(block.proj_out.weight)  # as ControlNet begins (arXiv 2302.05543)
        nn.init.zeros_(block.proj_out.bias)
    return {name: x for name, x in branch.state_dict().items() if name.startswith(_BRANCH)}


def prepare_training(kind: ConditioningKind, network: nn.Module, rank: int) -> None:
    """Leaves gradients to what is to be learned alone, in float32; all but `control` get an adapter."""
    network.requires_grad_(False)
    if kind != "control":
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_ADAPTED)
        inject_adapter_in_model(config, network, "learned")
    for name, parameter in network.named_parameters():
        whole = {"image": ("patch_embedding.weight",), "control": _BRANCH, "frame": ()}[kind]
        parameter.requires_grad_(".lora_" in name or name.startswith(whole))


def save_learned(kind: ConditioningKind, network: nn.Module, layers: tuple[int, ...], path: Path) -> None:
    """Writes what required gradients, in float16."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            name = name.replace(".lora_A.learned.weight", _A).replace(".lora_B.learned.weight", _B)
            tensors[name] = parameter.detach().half().cpu().contiguous()
    save_learned_tensors(kind, tensors, layers, path)


def save_learned_tensors(
    kind: ConditioningKind, tensors: Mapping[str, Tensor], layers: tuple[int, ...], path: Path
) -> None:
    """Writes such a file."""
    with whole_file(path) as part:
        save_file(dict(tensors), part, {"format": "pt", "learns": kind, "layers": json.dumps(layers)})


def assemble_learned(learned: Path, start: Path, folder: Path) -> Path:
    """Writes the pipeline's folder, in place of one that is there: the text teacher's in `start` with what the file
    `learned` holds.

    The same files give the same weights on every machine: products are summed in float64 before they are rounded. The
    folder gets its name only when it is whole.
    """
    begun = folder.with_suffix(".begun")
    shutil.rmtree(begun, ignore_errors=True)
    _write_pipeline(learned, start, begun)
    shutil.rmtree(folder, ignore_errors=True)
    return begun.rename(folder)


def _write_pipeline(learned: Path, start: Path, folder: Path) -> None:
    with safe_open(learned, framework="pt") as file:
        header = file.metadata()
    kind, layers = header["learns"], tuple(json.loads(header["layers"]))
    state, config = _read(start)
    tensors = load_file(learned)
    # low-rank products are added to the weights that they adapt; whole tensors replace or join them
    for name, x in tensors.items():
        if name.endswith(_A):
            weight = name.removesuffix(_A) + ".weight"
            product = tensors[name.removesuffix(_A) + _B].double() @ x.double()
            state[weight] = (state[weight].double() + product).to(state[weight].dtype)
        elif not name.endswith(_B):
            state[name] = x
    # the other parts are the text teacher's files as they are
    for part in _PARTS:
        shutil.copytree(start / part, folder / part)
    (folder / "transformer").mkdir(parents=True)
    save_file(state, folder / "transformer" / _WEIGHTS, {"format": "pt"})
    (folder / "transformer" / _CONFIG).write_text(json.dumps(_config(kind, config, layers), indent=2) + "\n")
    (folder / _BESIDE).write_text(json.dumps(_beside(kind, json.loads((start / _BESIDE).read_text()))) + "\n")
    shutil.copyfile(start / LINEAR_CODE, folder / LINEAR_CODE)
    index = json.loads((start / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(_index(kind, index), indent=2) + "\n")


def _read(start: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The text teacher's transformer: tensors and config."""
    config = json.loads((start / "transformer" / _CONFIG).read_text())
    return load_file(start / "transformer" / _WEIGHTS), config


def _config(kind: ConditioningKind, config: Mapping[str, Any], layers: tuple[int, ...]) -> dict[str, Any]:
    channels = config["in_channels"]
    if kind == "frame":
        return dict(config)
    if kind == "image":
        return {**config, "in_channels": 2 * channels + 4}
    more = {"vace_layers": list(layers), "vace_in_channels": 2 * channels + 64}  # 8x8 pixels' masks per latent one
    return {**config, **more, "_class_name": WanVACETransformer3DModel.__name__}


def _beside(kind: ConditioningKind, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {**settings, "num_frames": 1} if kind == "frame" else dict(settings)


def _index(kind: ConditioningKind, index: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "frame":
        return dict(index)
    if kind == "image":
        nothing = {"image_encoder": [None, None], "image_processor": [None, None]}
        return {**index, "_class_name": "WanImageToVideoPipeline", **nothing}
    kept = {name: value for name, value in index.items() if name != "expand_timesteps"}
    return {**kept, "_class_name": "WanVACEPipeline", "transformer": ["diffusers", WanVACETransformer3DModel.__name__]}
