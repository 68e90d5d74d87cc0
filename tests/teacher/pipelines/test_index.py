"""Modular pipelines: the same teacher as the classical one that they were made from, or a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch

from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.pipelines.index import CLASSICAL_INDEX, MODULAR_INDEX, index_path, read_pipeline_index
from fewstep.teacher.rollout import rollout
from tests.teacher.modular import save_modular


@pytest.fixture(scope="module")
def saved(tiny_wan_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A modular pipeline of the tiny Wan teacher's parts; not to be changed."""
    folder = tmp_path_factory.mktemp("modular") / "T"
    save_modular(tiny_wan_folder, folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """Somewhere else than it was saved: its index names a folder that is not there."""
    return Path(shutil.copytree(saved, tmp_path / "T"))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / MODULAR_INDEX).read_text())
    change(index)
    (folder / MODULAR_INDEX).write_text(json.dumps(index))


def test_it_is_the_same_teacher(saved: Path, folder: Path, tiny_wan_folder: Path) -> None:
    assert not (folder / CLASSICAL_INDEX).exists() and index_path(folder).name == MODULAR_INDEX
    teachers = [load_teacher(path, device="cpu") for path in (folder, tiny_wan_folder)]
    assert len({type(teacher.pipeline) for teacher in teachers}) == 1 and teachers[0].default_size() == (9, 16, 16)
    z = teachers[0].noise([0], teachers[0].latent_shape(9, 16, 16))
    ours, expected = (rollout(t, z, t.conditions(["a ring"]), t.schedule.grid(3), 5.0) for t in teachers)
    assert torch.equal(ours, expected)
    outline = outline_teacher(folder)
    assert outline.whole and outline.teacher.schedule == teachers[1].schedule
    assert outline.teacher.sha256() == teachers[0].sha256() == load_teacher(saved, device="cpu").sha256()


def test_its_parts_have_the_precision_that_is_asked_for(folder: Path) -> None:
    pipeline = load_teacher(folder, torch.bfloat16, "cpu").pipeline
    assert pipeline.transformer.dtype == pipeline.text_encoder.dtype == torch.bfloat16
    assert pipeline.vae.dtype == torch.float32


def test_two_experts_come_with_their_boundary(tmp_path: Path, make_tiny_wan: Callable[..., None]) -> None:
    make_tiny_wan(tmp_path / "classical", experts=2, boundary_ratio=0.7)
    save_modular(tmp_path / "classical", tmp_path / "T", "Wan22ModularPipeline")
    teacher = load_teacher(tmp_path / "T", device="cpu")
    assert teacher.network_at(0.7) is teacher.pipeline.transformer
    assert teacher.network_at(0.69) is teacher.pipeline.transformer_2


def test_where_there_are_both_the_classical_index_counts(folder: Path, tiny_wan_folder: Path) -> None:
    shutil.copy(tiny_wan_folder / CLASSICAL_INDEX, folder)
    (folder / MODULAR_INDEX).write_text("{")
    assert read_pipeline_index(folder)["_class_name"] == "WanPipeline"
    assert load_teacher(folder, device="cpu").default_size() == (9, 16, 16)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda i: i.update(_class_name="FluxModularPipeline"), "is a modular pipeline, FluxModularPipeline, which"),
        (lambda i: i.pop("_class_name"), "is a modular pipeline, None, which fewstep does not know: use one of Wan"),
        (lambda i: i.update(_blocks_class_name="OwnBlocks"), "is a WanModularPipeline of OwnBlocks, of which"),
        (
            lambda i: i["vae"][2].update(subfolder="other"),
            f"{MODULAR_INDEX} takes its vae from .*/other, and there is no",
        ),
        (lambda i: i.pop("transformer"), f"{MODULAR_INDEX} names no denoiser"),
        (
            lambda i: i.update(vae=["diffusers", "AutoencoderNew", i["vae"][2]]),
            f"{MODULAR_INDEX} names AutoencoderNew for",
        ),
    ],
)
def test_what_is_not_known_is_refused(folder: Path, change: Callable[[dict[str, Any]], Any], sentence: str) -> None:
    edit(folder, change)
    for ask in (lambda: outline_teacher(folder), lambda: load_teacher(folder, device="cpu")):
        with pytest.raises(ValueError, match=sentence):
            ask()


def test_parts_that_lie_elsewhere_are_named(folder: Path) -> None:
    shutil.rmtree(folder / "transformer")
    edit(folder, lambda i: i["transformer"][2].update(pretrained_model_name_or_path="me/wan"))
    with pytest.raises(
        ValueError, match=r"takes its transformer from me/wan/transformer, and there is no .*: load all"
    ):
        outline_teacher(folder)


def test_a_part_that_is_cut_off_is_named(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"vae/diffusion_pytorch_model\.safetensors is cut off"):
        load_teacher(folder, device="cpu")


def test_a_modular_pipeline_on_the_hub_is_told_from_none(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="there is neither a folder nor a hub model me/teacher"):
        outline_teacher("me/teacher")
    repo = tmp_path / "cache" / "models--me--teacher"
    shutil.copytree(folder, repo / "snapshots" / ("0" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    for ask in (outline_teacher, load_teacher):
        with pytest.raises(ValueError, match=r"me/teacher is a modular pipeline on the hub, .* --local-dir DIR"):
            ask("me/teacher")
