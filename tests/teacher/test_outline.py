"""A teacher without weights says what the loaded one says, and of a hub id nothing but configs is fetched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fewstep.student.adapters import add_adapter, lora_targets, shared_copy
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.pipelines.index import config_number

FAMILIES = ["tiny_wan_folder", "tiny_cogvideox_folder", "tiny_animatediff_folder"]
COMMIT = "0" * 40


@pytest.mark.parametrize("family", FAMILIES)
def test_an_outline_agrees_with_the_loaded_teacher(request: pytest.FixtureRequest, family: str) -> None:
    folder = request.getfixturevalue(family)
    outline, real = outline_teacher(folder), load_teacher(folder, device="cpu")
    outlined = outline.teacher
    assert outline.whole and type(outlined) is type(real) and outlined.schedule == real.schedule
    size = real.default_size()
    assert size is not None and outlined.default_size() == size and outlined.default_fps() == real.default_fps()
    assert outlined.latent_shape(*size) == real.latent_shape(*size) and outlined.sha256() == real.sha256()
    with pytest.raises(ValueError, match="cannot be made"):
        outlined.latent_shape(size.num_frames, size.height + 1, size.width)
    networks = [teacher.network_at(1.0) for teacher in (outlined, real)]
    assert all(parameter.is_meta for parameter in networks[0].parameters())
    assert {n: p.shape for n, p in networks[0].named_parameters()} == {
        n: p.shape for n, p in networks[1].named_parameters()
    }
    assert len(outlined.taps(networks[0])) == len(real.taps(networks[1]))
    assert lora_targets(networks[0]) == lora_targets(networks[1])
    add_adapter(shared_copy(networks[0]), "student", 2, 2)


def test_a_unet_beside_its_motion_modules_is_outlined(
    tiny_animatediff_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As AnimateDiff pipelines are shared: Stable Diffusion's UNet, and an adapter that makes it move."""
    from diffusers import AnimateDiffPipeline, MotionAdapter, UNet2DConditionModel

    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 16), "norm_num_groups": 2, "layers_per_block": 1, "cross_attention_dim": 16}
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=2,
        **sizes,
    )
    adapter = MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=2
    )
    shutil.copytree(tiny_animatediff_folder, tmp_path / "T")
    parts = load_teacher(tiny_animatediff_folder, device="cpu").pipeline.components
    pipeline = AnimateDiffPipeline(**parts | {"unet": unet, "motion_adapter": adapter})
    for name in ("unet", "motion_adapter"):
        shutil.rmtree(tmp_path / "T" / name, ignore_errors=True)
    pipeline.save_pretrained(tmp_path / "T")
    unet.save_pretrained(tmp_path / "T" / "unet")
    index = tmp_path / "T" / "model_index.json"
    index.write_text(index.read_text().replace("UNetMotionModel", "UNet2DConditionModel"))
    outline, real = outline_teacher(tmp_path / "T").teacher, load_teacher(tmp_path / "T", device="cpu")
    assert outline.default_size() == real.default_size()
    assert len(outline.blocks(outline.network_at(1.0))) == len(real.blocks(real.network_at(1.0)))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, bool], None]:
    """hub(folder, weights): the cache of huggingface_hub holds a folder's configs, or all of it, as me/teacher."""
    import huggingface_hub.constants

    cache = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def fill(folder: Path, weights: bool) -> None:
        left_out = () if weights else ("*.safetensors", "tokenizer*.json", "*.jinja")
        repo = cache / "models--me--teacher"
        shutil.copytree(folder, repo / "snapshots" / COMMIT, ignore=shutil.ignore_patterns(*left_out))
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(COMMIT)

    return fill


@pytest.mark.parametrize("weights", [False, True])
def test_of_a_hub_teacher_configs_are_enough(
    hub: Callable[[Path, bool], None],
    weights: bool,
    tiny_wan_folder: Path,
    tiny_teacher: Teacher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers import DiffusionPipeline

    monkeypatch.setattr(DiffusionPipeline, "download", lambda *_, **__: pytest.fail("weights were downloaded"))
    hub(tiny_wan_folder, weights)
    outline = outline_teacher("me/teacher")
    assert outline.whole is weights and outline.is_of("me/teacher") and not outline.is_of("shapes")
    assert outline.teacher.latent_shape(9, 16, 16) == tiny_teacher.latent_shape(9, 16, 16)
    if weights:
        assert outline.teacher.sha256() == tiny_teacher.sha256()


def test_a_damaged_file_in_the_hubs_cache_is_named(
    hub: Callable[[Path, bool], None], tiny_wan_folder: Path, tmp_path: Path
) -> None:
    hub(tiny_wan_folder, True)
    weights = next((tmp_path / "cache").rglob("text_encoder/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"text_encoder/model\.safetensors is cut off"):
        outline_teacher("me/teacher")


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_different_models_are_told_apart_by_their_configs(
    request: pytest.FixtureRequest, family: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(request.getfixturevalue(family), tmp_path / "T"))
    agreeing = type(outline_teacher(folder).teacher).agreeing
    pairs = [pair for pair in agreeing if all(config_number(folder, name) is not None for name in pair)]
    assert len({first for first, _ in pairs}) == 2  # latents and text
    for first, second in pairs:
        part, name = first.split(".")
        path = folder / part / "config.json"
        before = path.read_text()
        path.write_text(json.dumps(json.loads(before) | {name: 7}))
        for ask in (outline_teacher, load_teacher):
            with pytest.raises(ValueError, match=f"of different models: {first} is 7, {second} is"):
                ask(folder)
        path.write_text(before)
    outline_teacher(folder)
