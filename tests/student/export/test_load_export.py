"""What cannot be trusted is not opened: one sentence each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fewstep.student.contract import SamplingContract
from fewstep.student.export.base import Exported
from fewstep.student.export.load_export import check_exportable
from fewstep.student.sampler import SamplingOptions, open_sampler
from fewstep.teacher import source

FIELDS = tuple(SamplingContract.model_fields)


@pytest.fixture
def pipeline(make_export: Callable[..., Exported], tmp_path: Path) -> Path:
    """A diffusers export of one's own."""
    return Path(shutil.copytree(make_export("wan", "full", "diffusers").folder, tmp_path / "pipeline"))


@pytest.fixture
def lora(make_export: Callable[..., Exported], tmp_path: Path) -> Path:
    """A LoRA file of one's own, outside of its folder."""
    return Path(shutil.copy(make_export("wan", "lora", "lora").folder / "pytorch_lora_weights.safetensors", tmp_path))


@pytest.fixture
def model(make_export: Callable[..., Exported], tmp_path: Path) -> Path:
    """A single file of one's own."""
    return Path(shutil.copy(make_export("wan", "full", "single-file").folder / "fewstep-4step.safetensors", tmp_path))


def rewrite(path: Path, **changes: str | None) -> None:
    """The file with changed lines of its header; None deletes one."""
    with safe_open(path, "pt") as file:
        header = {key: value for key, value in (file.metadata() | changes).items() if value is not None}
    save_file(load_file(path), path, header)


def without(contract: str, field: str) -> str:
    return json.dumps({key: value for key, value in json.loads(contract).items() if key != field})


def test_a_contract_that_lost_any_line_is_refused(pipeline: Path, lora: Path) -> None:
    contract = (pipeline / "contract.json").read_text()
    for field in FIELDS:
        (pipeline / "contract.json").write_text(without(contract, field))
        with pytest.raises(ValueError, match=f"not whole \\({field}: Field required\\)"):
            open_sampler(pipeline, device="cpu")
        rewrite(lora, fewstep_contract=without(contract, field))
        with pytest.raises(ValueError, match=f"in the header of .* is not whole \\({field}: Field required\\)"):
            open_sampler(lora, device="cpu")


def test_a_missing_contract_is_refused(pipeline: Path, lora: Path) -> None:
    """Above all in a pipeline, which would else be sampled as a teacher: with guidance, in 50 steps."""
    (pipeline / "contract.json").unlink()
    with pytest.raises(ValueError, match=r"has no contract\.json"):
        open_sampler(pipeline, device="cpu")
    (pipeline / "export.json").unlink()
    with pytest.raises(ValueError, match=r"has no contract\.json"):
        open_sampler(pipeline, device="cpu")
    rewrite(lora, fewstep_contract=None)
    with pytest.raises(ValueError, match="no sampling contract in its header"):
        open_sampler(lora, device="cpu")


def test_a_pickle_is_refused(pipeline: Path, tmp_path: Path) -> None:
    torch.save({}, tmp_path / "student.pt")
    with pytest.raises(ValueError, match="is a pickle, which may run code"):
        open_sampler(tmp_path / "student.pt", device="cpu")
    (weights,) = (pipeline / "transformer").glob("*.safetensors")
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(ValueError, match="is a pickle, and there is no safetensors file next to it"):
        open_sampler(pipeline, device="cpu")


@pytest.mark.parametrize("length", [5, 3000, -50])
def test_a_truncated_file_is_refused(pipeline: Path, lora: Path, model: Path, length: int) -> None:
    for path in (lora, model):
        path.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ValueError, match=r"safetensors is cut off.*: copy or export it again"):
            open_sampler(path, device="cpu")
    (weights,) = (pipeline / "transformer").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"pipeline/transformer/diffusion_pytorch_model\.safetensors is cut off"):
        open_sampler(pipeline, device="cpu")


def test_weights_of_another_network_are_refused(pipeline: Path, lora: Path, model: Path, tiny_wan_folder: Path) -> None:
    for path in (lora, model):
        state = load_file(path)
        with safe_open(path, "pt") as file:
            header = file.metadata()
        key = min(state)
        save_file(state | {key: torch.cat([state[key]] * 2, dim=-1)}, path, header)
        with pytest.raises(ValueError, match=r"is (?:not a LoRA for|no WanTransformer3DModel of the teacher's size)"):
            open_sampler(path, teacher=str(tiny_wan_folder), device="cpu")
        save_file({f"more.{key}": tensor for key, tensor in state.items()}, path, header)
        with pytest.raises(ValueError, match=r"is (?:not a LoRA for|no WanTransformer3DModel of the teacher's size)"):
            open_sampler(path, teacher=str(tiny_wan_folder), device="cpu")
    config = json.loads((pipeline / "transformer" / "config.json").read_text())
    (pipeline / "transformer" / "config.json").write_text(json.dumps(config | {"num_layers": 5}))
    with pytest.raises(ValueError, match="pipeline"):
        open_sampler(pipeline, device="cpu")


def test_another_teacher_family_or_scheduler_is_refused(
    pipeline: Path, lora: Path, tiny_cogvideox_folder: Path
) -> None:
    with pytest.raises(ValueError, match="the student's teacher was"):
        open_sampler(lora, teacher=str(tiny_cogvideox_folder), device="cpu")
    contract = json.loads((pipeline / "contract.json").read_text())
    (pipeline / "contract.json").write_text(json.dumps(contract | {"pipeline": "CogVideoXPipeline"}))
    with pytest.raises(ValueError, match="is a student of a CogVideoXPipeline, not of a WanPipeline"):
        open_sampler(pipeline, device="cpu")
    (pipeline / "contract.json").write_text(json.dumps(contract | {"shift": 8.0}))
    with pytest.raises(ValueError, match="and shift 5, its contract says flow, flow and 8"):
        open_sampler(pipeline, device="cpu")
    rewrite(lora, fewstep_format="mp3")
    with pytest.raises(ValueError, match="there is no format mp3"):
        open_sampler(lora, device="cpu")


def test_a_format_that_its_family_lacks_is_refused(
    make_export: Callable[..., Exported], tiny_cogvideox_folder: Path, tmp_path: Path
) -> None:
    folder = make_export("cogvideox", "lora", "lora").folder
    file = Path(shutil.copy(folder / "pytorch_lora_weights.safetensors", tmp_path))
    rewrite(file, fewstep_format="comfyui")
    with pytest.raises(ValueError, match=r"^comfyui is not possible for students of CogVideoXPipeline \("):
        open_sampler(file, teacher=str(tiny_cogvideox_folder), device="cpu")


def test_an_export_keeps_to_its_contract(pipeline: Path, lora: Path, tiny_wan_folder: Path) -> None:
    for path, teacher in ((pipeline, None), (lora, str(tiny_wan_folder))):
        with pytest.raises(ValueError, match="trained for steps 4, not 3"):
            open_sampler(path, SamplingOptions(steps=3), teacher, device="cpu")
        assert open_sampler(path, SamplingOptions(steps=3, guidance=2.0, force=True), teacher, device="cpu").steps == 3


def test_an_export_on_the_hub_is_not_taken_for_a_teacher(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers downloads a pipeline's parts only, neither contract.json nor export.json."""
    for name in ("contract.json", "export.json"):
        (pipeline / name).unlink()
    monkeypatch.setattr(source, "_download", lambda *_: (pipeline, "WanPipeline"))
    with pytest.raises(ValueError, match=r"me/student is an exported student.*hf download me/student"):
        open_sampler("me/student", device="cpu")


@pytest.mark.parametrize("name", ["onnx", "gguf", "torchao-int8"])
def test_no_export_is_made_of_rounded_weights_or_a_graph(pipeline: Path, name: str) -> None:
    check_exportable(pipeline)
    (pipeline / "model_index.json").unlink()
    told = json.loads((pipeline / "export.json").read_text())
    (pipeline / "export.json").write_text(json.dumps(told | {"format": name}))
    with pytest.raises(ValueError, match=f"is an export of the format {name}, .* export the run"):
        check_exportable(pipeline)
