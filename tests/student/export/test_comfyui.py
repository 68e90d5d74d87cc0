"""ComfyUI's names, nodes and workflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file, save_file

from fewstep.student.export.base import EXACT, Exported, Options, find_format
from fewstep.student.export.comfyui_workflow import architecture_note, simple_nodes, workflow
from fewstep.student.export.stock import pipeline_latents, stock_pipeline
from fewstep.student.export.write_export import write_export
from fewstep.student.loading import Student
from fewstep.student.sampler import open_sampler
from fewstep.teacher.families.wan_files import COMFYUI
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
    kinds = {key: key.rsplit(".lora_")[-1] if ".lora_" in key else key.rsplit(".")[-1] for key in state}
    assert set(kinds.values()) == {"A.weight", "B.weight", "alpha"}
    assert all(key.startswith("diffusion_model.blocks.") for key in state)
    assert all(tensor == 4 for key, tensor in state.items() if kinds[key] == "alpha")  # the rank: a scale of 1
    mapped = WanPipeline.lora_state_dict(dict(state))
    assert len(mapped) == sum(kind != "alpha" for kind in kinds.values())
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


def test_the_workflow_of_wan22_5b_makes_its_latents(make_export: Callable[..., Exported]) -> None:
    """Of 48 channels and 16 pixels a side, whatever the pipeline says of time."""
    exported = make_export("wan22", "lora", "comfyui")
    nodes = json.loads((exported.folder / "workflow.json").read_text())
    assert nodes["noise"] == {
        "class_type": "Wan22ImageToVideoLatent",
        "inputs": {"vae": ["vae", 0], "width": 32, "height": 32, "length": 9, "batch_size": 1},
    }
    assert nodes["vae"]["inputs"] == {"vae_name": "wan2.2_vae.safetensors"}
    for file in (
        "wan2.2_vae.safetensors (autoencoder, vae)",
        "umt5_xxl_fp16.safetensors (text encoder, text_encoders)",
    ):
        assert file in exported.notes[0]
    assert "BASE-MODEL.safetensors (base model, diffusion_models)" in exported.notes[0]
    assert "channels" not in exported.notes[-1] and "z_dim" not in exported.notes[-1]


def test_all_that_comfyui_infers_is_compared(
    make_student: Callable[..., Student], monkeypatch: pytest.MonkeyPatch
) -> None:
    student = make_student("wan22", "lora")
    monkeypatch.setattr(type(student.teacher), "comfyui", COMFYUI)
    (note,) = architecture_note(student)
    for text in ("in_channels 16", "out_channels 16", "vae.z_dim 16", "vae.scale_factor_spatial 8", "text_dim 4096"):
        assert text in note
    assert "qk_norm" not in note and "temporal" not in note


def test_a_workflow_carries_the_negative_prompt(make_student: Callable[..., Student]) -> None:
    student = make_student("wan", "lora")
    facts = replace(student, contract=student.contract.model_copy(update={"negative_prompt": "blurry, still"}))
    assert workflow(facts, "a.safetensors", is_lora=True)["negative"]["inputs"]["text"] == "blurry, still"


def test_a_full_student_leaves_as_a_lora(
    make_student: Callable[..., Student], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under original names, with whole differences of what is no matrix: the student but for its tables."""
    student = make_student("wan", "full")
    exported = write_export(student, "comfyui", tmp_path / "out", Options(rank=24))
    assert "leaves norms and convolutions out" in exported.notes[1] and exported.relative_error < 1
    file = exported.folder / "fewstep-4step-lora.safetensors"
    state = load_file(file)
    for key in (
        "blocks.0.self_attn.q.lora_A.weight", "blocks.0.self_attn.q.diff_b", "blocks.0.self_attn.q.alpha",
        "blocks.0.norm3.diff", "blocks.0.norm3.diff_b", "patch_embedding.diff",
        "head.head.lora_B.weight", "time_projection.1.diff_b",
    ):  # fmt: skip
        assert f"diffusion_model.{key}" in state, key
    assert not [key for key in state if "modulation" in key]
    assert not [key for key in state if key.endswith("lora_B.bias") or (key.endswith("alpha") and "blocks" not in key)]
    nodes = json.loads((exported.folder / "workflow.json").read_text())
    assert nodes["lora"]["inputs"]["lora_name"] == file.name
    back = open_sampler(file, teacher=student.teacher)
    for name, tensor in student.network.state_dict().items():
        if "scale_shift_table" in name:
            continue
        assert torch.allclose(back.network.state_dict()[name], tensor, atol=1e-5), name  # type: ignore[union-attr]
    low = write_export(student, "comfyui", tmp_path / "low", Options(rank=2))
    assert low.relative_error > exported.relative_error
    save_file(state | {"diffusion_model.blocks.9.norm3.diff": torch.ones(3)}, file)
    with pytest.raises(ValueError, match=r"blocks.9.norm3.weight does not fit"):
        find_format("comfyui").network(file, student.teacher)


@pytest.mark.parametrize(
    ("targets", "why"),
    [
        (("patch_embedding", "to_q"), "takes no LoRA on patch_embedding;"),
        (("proj_out",), "takes none without modules in blocks, and this one is on proj_out alone;"),
        pytest.param(("patch_embedding",), "and this one is on patch_embedding alone;", marks=pytest.mark.slow),
    ],
)
def test_modules_that_the_loader_leaves_out_are_named(
    make_student: Callable[..., Student], tmp_path: Path, targets: tuple[str, ...], why: str
) -> None:
    student = make_student("wan", "lora", 4, None, targets)
    with pytest.raises(
        ValueError, match=f"^comfyui cannot carry this LoRA: .*{why} export it --to lora.*--to single-file"
    ):
        write_export(student, "comfyui", tmp_path / "out")
    for to in ("lora", "single-file"):
        assert write_export(student, to, tmp_path / to).relative_error < EXACT


def test_other_in_and_out_layers_are_carried(make_student: Callable[..., Student], tmp_path: Path) -> None:
    targets = ("to_q", "ffn.net.2", "proj_out", "time_proj", "linear_1", "linear_2")
    assert (
        write_export(make_student("wan", "lora", 4, None, targets), "comfyui", tmp_path / "out").relative_error < EXACT
    )


def test_a_rank_without_use_is_refused(make_student: Callable[..., Student], tmp_path: Path) -> None:
    for to in ("diffusers", "single-file"):
        with pytest.raises(ValueError, match=f"--to lora or comfyui; {to} writes none: leave it out"):
            write_export(make_student("wan", "full"), to, tmp_path / "out", Options(rank=4))
    for to in ("lora", "comfyui"):
        with pytest.raises(ValueError, match="the student is a LoRA, which is written as it is"):
            write_export(make_student("wan", "lora"), to, tmp_path / "out", Options(rank=4))


def test_a_lora_keeps_its_strength_without_its_header(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], tmp_path: Path
) -> None:
    """As other tools save it again; the student's alpha is twice its rank."""
    student = make_student("wan", "lora")
    for to in ("lora", "comfyui"):
        (file,) = make_export("wan", "lora", to).folder.glob("*.safetensors")
        shutil.copy(file, tmp_path / file.name)
        save_file({k: x for k, x in load_file(file).items() if not k.endswith(".alpha")}, tmp_path / file.name)
        pipe = stock_pipeline(student)
        pipe.load_lora_weights(tmp_path, weight_name=file.name)
        z = student.teacher.noise([3], student.teacher.latent_shape(*student.contract.size))
        own = student.sample(z, student.teacher.conditions(["a ring"]))
        assert torch.allclose(pipeline_latents(pipe, student)(z, ["a ring"]), own, atol=1e-4)
