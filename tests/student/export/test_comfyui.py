"""ComfyUI's names, nodes and workflow."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file

from fewstep.student.export.base import Exported
from fewstep.student.export.comfyui import simple_nodes, workflow
from fewstep.student.loading import Student
from fewstep.teacher.families.wan_files import COMFYUI_5B
from fewstep.teacher.schedule import NoiseSchedule


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("shift", [1.0, 5.0, 8.0])
def test_the_simple_scheduler_has_the_contracts_nodes(steps: int, shift: float) -> None:
    """Against ComfyUI's own two functions, written out: a table of 1000 sigmas, picked from its end."""
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    table = shift * t / (1 + (shift - 1) * t)
    picked = [float(table[-(1 + int(i * len(table) / steps))]) for i in range(steps)] + [0.0]
    assert simple_nodes(shift, steps) == pytest.approx(picked)
    assert simple_nodes(shift, steps) == pytest.approx(
        NoiseSchedule("flow", "flow", shift).grid(steps).tolist(), abs=1e-3
    )


def test_a_lora_has_no_leftovers_of_peft(
    make_student: Callable[..., Student], make_export: Callable[..., Exported]
) -> None:
    folder = make_export("wan", "lora", "comfyui").folder
    state = load_file(folder / "fewstep-4step-lora.safetensors")
    assert "diffusion_model.blocks.0.self_attn.q.lora_A.weight" in state
    assert all(
        key.startswith("diffusion_model.blocks.") and key.split(".lora_")[1] in ("A.weight", "B.weight")
        for key in state
    )
    mapped = WanPipeline.lora_state_dict(dict(state))
    assert len(mapped) == len(state)
    own = make_student("wan", "lora").network.get_submodule("blocks.0.attn1.to_q")
    product = (
        mapped["transformer.blocks.0.attn1.to_q.lora_B.weight"]
        @ mapped["transformer.blocks.0.attn1.to_q.lora_A.weight"]
    )
    assert torch.allclose(product, own.get_delta_weight("student"), atol=1e-6)  # type: ignore[operator]


def test_a_model_has_the_prefix_that_comfyui_strips(make_export: Callable[..., Exported]) -> None:
    state = load_file(make_export("wan", "full", "comfyui").folder / "fewstep-4step.safetensors")
    assert all(key.startswith("model.diffusion_model.") for key in state)
    assert "model.diffusion_model.head.modulation" in state


@pytest.mark.parametrize("train", ["full", "lora"])
def test_the_workflow_asks_as_the_contract_says(make_export: Callable[..., Exported], train: str) -> None:
    exported = make_export("wan", train, "comfyui")
    nodes = json.loads((exported.folder / "workflow.json").read_text())
    linked = {value[0] for node in nodes.values() for value in node["inputs"].values() if isinstance(value, list)}
    assert linked == set(nodes) - {"save"}
    assert nodes["shift"] == {
        "class_type": "ModelSamplingSD3",
        "inputs": {"model": ["lora" if train == "lora" else "model", 0], "shift": 5.0},
    }
    sample = nodes["sample"]["inputs"]
    assert (sample["steps"], sample["cfg"], sample["sampler_name"], sample["scheduler"]) == (4, 1.0, "euler", "simple")
    named = nodes["lora"]["inputs"]["lora_name"] if train == "lora" else nodes["model"]["inputs"]["unet_name"]
    assert (exported.folder / named).is_file()
    assert nodes["noise"]["inputs"]["length"] == 9
    assert "text_dim 4096" in exported.notes[-1]  # the tiny teacher is none that ComfyUI knows


def test_the_workflow_of_another_autoencoder_lets_it_make_the_noise(
    make_student: Callable[..., Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wan 2.2 5B's latents have 48 channels and 16 pixels a side."""
    student = make_student("wan", "lora")
    monkeypatch.setattr(type(student.teacher), "comfyui", COMFYUI_5B)
    nodes = workflow(student, "lora.safetensors")
    assert nodes["noise"] == {
        "class_type": "Wan22ImageToVideoLatent",
        "inputs": {"vae": ["vae", 0], "width": 16, "height": 16, "length": 9, "batch_size": 1},
    }
    assert nodes["vae"]["inputs"] == {"vae_name": "wan2.2_vae.safetensors"}
