"""The teacher: found, loaded, frozen, and asked."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from fewstep.teacher import source
from fewstep.teacher.base import Teacher, embedded_path
from fewstep.teacher.conditions import Tensors
from fewstep.teacher.load_teacher import load_teacher

PROMPTS = ["a red circle", "a big blue square moves left over a dark background"]
SHAPE = (16, 3, 2, 2)


def state(teacher: Teacher) -> dict[str, Tensor]:
    """Every parameter and buffer, copied."""
    parts = {n: m for n, m in teacher.pipeline.components.items() if isinstance(m, nn.Module)}
    tensors = [(f"{n}.{k}", v) for n, m in parts.items() for k, v in (*m.named_parameters(), *m.named_buffers())]
    return {name: value.detach().clone() for name, value in tensors}


def test_nothing_changes_the_teacher(tiny_teacher: Teacher) -> None:
    before = state(tiny_teacher)
    assert len(before) > 100
    conditions = tiny_teacher.conditions(PROMPTS)
    z = tiny_teacher.noise([0, 1], SHAPE).requires_grad_()
    tiny_teacher.denoise(z, 0.7, conditions, 5.0).square().sum().backward()
    assert z.grad is not None and float(z.grad.abs().max()) > 0
    with torch.no_grad():
        x0 = tiny_teacher.denoise(z, 0.7, conditions)
        tiny_teacher.encode(tiny_teacher.decode(x0))
    sum(f.square().mean() for f in tiny_teacher.features(z, 0.7, conditions)).backward()  # type: ignore[union-attr]
    after = state(tiny_teacher)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for part in tiny_teacher.pipeline.components.values():
        if isinstance(part, nn.Module):
            assert not part.training
            assert all(p.grad is None and not p.requires_grad for p in part.parameters())


def test_guidance_is_u_plus_w_times_c_minus_u(tiny_teacher: Teacher) -> None:
    conditions, z = tiny_teacher.conditions(PROMPTS), tiny_teacher.noise([0, 1], SHAPE)
    empty = tiny_teacher.conditions(["", ""])
    u, c = tiny_teacher.denoise(z, 0.7, empty), tiny_teacher.denoise(z, 0.7, conditions)
    actual = tiny_teacher.denoise(z, 0.7, conditions, 5.0)
    torch.testing.assert_close(actual, u + 5 * (c - u), atol=1e-4, rtol=1e-4)
    assert float((u - c).abs().max()) > 1e-2


@pytest.mark.parametrize(("guidance", "samples"), [(1.0, 2), (5.0, 4)])
def test_forwards(tiny_teacher: Teacher, guidance: float, samples: int) -> None:
    seen: list[int] = []
    handle = tiny_teacher.network_at(1.0).register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    conditions, z = tiny_teacher.conditions(PROMPTS), tiny_teacher.noise([0, 1], SHAPE)
    tiny_teacher.denoise(z, 0.7, conditions, guidance)
    handle.remove()
    assert seen == [samples]


def test_samples_do_not_depend_on_their_batch(tiny_teacher: Teacher) -> None:
    conditions, t = tiny_teacher.conditions(PROMPTS, "blurry"), torch.tensor([0.9, 0.4])
    z = tiny_teacher.noise([3, 7], SHAPE)
    together = tiny_teacher.denoise(z, t, conditions, 5.0)
    for i in range(2):
        alone = tiny_teacher.conditions([PROMPTS[i]], "blurry")
        assert torch.equal(tiny_teacher.noise([(3, 7)[i]], SHAPE), z[i : i + 1])
        actual = tiny_teacher.denoise(z[i : i + 1], float(t[i]), alone, 5.0)
        torch.testing.assert_close(actual, together[i : i + 1], atol=1e-4, rtol=1e-4)


def test_features_are_tapped_at_fractions_of_the_depth(tiny_teacher: Teacher) -> None:
    network = tiny_teacher.network_at(1.0)
    blocks = list(network.blocks)  # type: ignore[arg-type]
    assert tiny_teacher.blocks(network) == blocks
    assert tiny_teacher.taps(network) == [blocks[1], blocks[2], blocks[3]]
    conditions, z = tiny_teacher.conditions(PROMPTS), tiny_teacher.noise([0, 1], (16, 3, 4, 6))
    features = tiny_teacher.features(z, 0.5, conditions, (0.25, 1.0))
    assert [f.shape for f in features] == [(2, 24, 3, 2, 3)] * 2
    assert not network._forward_hooks and not any(block._forward_hooks for block in blocks)
    with pytest.raises(ValueError, match="fractions"):
        tiny_teacher.features(z, 0.5, conditions, (0.0, 1.0))
    with pytest.raises(ValueError, match="no repeated blocks"):
        tiny_teacher.taps(nn.Linear(1, 1))


def test_features_keep_space_and_time_in_place(tiny_teacher: Teacher) -> None:
    """What changes most where the first block looks at a changed patch is that patch."""
    conditions, z = tiny_teacher.conditions(PROMPTS[:1]), tiny_teacher.noise([0], (16, 3, 4, 6))
    changed = z.clone()
    changed[:, :, 2, 2:4, 4:6] += 10
    before, after = (tiny_teacher.features(x, 0.5, conditions, (0.25,))[0] for x in (z, changed))
    moved = (after - before).square().sum(dim=1)[0]
    assert (moved == moved.max()).nonzero().tolist() == [[2, 1, 2]]


def test_another_network_can_be_asked(tiny_teacher: Teacher) -> None:
    student = copy.deepcopy(tiny_teacher.network_at(1.0)).requires_grad_(True)
    conditions, z = tiny_teacher.conditions(PROMPTS), tiny_teacher.noise([0, 1], SHAPE)
    tiny_teacher.denoise(z, 0.7, conditions, network=student).mean().backward()
    assert all(p.grad is not None for p in student.parameters())
    assert torch.equal(
        tiny_teacher.denoise(z, 0.7, conditions, network=student), tiny_teacher.denoise(z, 0.7, conditions)
    )


def test_latents_are_normalised_and_come_back(tiny_teacher: Teacher) -> None:
    vae = tiny_teacher.pipeline.vae
    video = torch.rand(2, 3, 9, 16, 16) * 2 - 1
    latents = tiny_teacher.encode(video)
    assert latents.shape == (2, *tiny_teacher.latent_shape(9, 16, 16))
    mean, std = (torch.tensor(x).view(-1, 1, 1, 1) for x in (vae.config.latents_mean, vae.config.latents_std))
    raw = vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(latents, (raw - mean) / std)
    torch.testing.assert_close(tiny_teacher.decode(latents), vae.decode(raw).sample, atol=1e-5, rtol=1e-4)


def test_half_precision_keeps_latents_in_full(tiny_wan_folder: Path) -> None:
    teacher = load_teacher(tiny_wan_folder, torch.bfloat16, "cpu")
    conditions, z = teacher.conditions(PROMPTS[:1]), teacher.noise([0], SHAPE)
    assert teacher.pipeline.transformer.dtype == torch.bfloat16
    assert teacher.pipeline.vae.dtype == torch.float32
    x0 = teacher.denoise(z, 0.7, conditions, 5.0)
    assert x0.dtype == teacher.decode(x0).dtype == torch.float32


def test_without_guidance_the_text_encoder_is_spared_the_unconditional_branch(
    tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = tiny_teacher.conditions(["a ring", "a cross"])
    arguments: list[list[str]] = []
    embed = tiny_teacher.embed

    def remember(prompts: list[str]) -> Tensors:
        arguments.append(prompts)
        return embed(prompts)

    monkeypatch.setattr(tiny_teacher, "embed", remember)
    alone = tiny_teacher.conditions(["a ring", "a cross"], None)
    assert arguments == [["a ring", "a cross"]] and torch.equal(
        alone.positive["embeddings"], both.positive["embeddings"]
    )


def test_parts_can_be_freed(tiny_wan_folder: Path) -> None:
    teacher = load_teacher(tiny_wan_folder, device="cpu")
    conditions = teacher.conditions(PROMPTS)
    teacher.free_text()
    teacher.free_vae()
    z = teacher.denoise(teacher.noise([0, 1], teacher.latent_shape(9, 16, 16)), 1.0, conditions, 5.0)
    with pytest.raises(ValueError, match="text_encoder was freed"):
        teacher.conditions(PROMPTS)
    with pytest.raises(ValueError, match="vae was freed"):
        teacher.decode(z)
    with pytest.raises(ValueError, match="vae was freed"):
        teacher.encode(z)


@pytest.fixture
def moved(tiny_wan_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline that may be changed."""
    shutil.copytree(tiny_wan_folder, tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def test_sha256_is_the_same_wherever_the_teacher_lies(tiny_wan_folder: Path, moved: Path) -> None:
    (moved / "README.md").write_text("a model card")
    (moved / "vae" / "README.md").write_text("a model card")
    (moved / "examples").mkdir()
    (moved / "examples" / "prompts.txt").write_text("a red circle")
    (moved / "sheet.png").write_bytes(b"PNG")
    (moved / "fewstep.json").unlink()
    change(moved / "vae" / "config.json", _name_or_path="/elsewhere", _diffusers_version="9.9")
    first = source.teacher_sha256(tiny_wan_folder)
    assert source.teacher_sha256(moved) == first == load_teacher(moved, device="cpu").sha256()


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "alter",
    [
        lambda folder: flip_last_byte(next(folder.glob("transformer/*.safetensors"))),
        lambda folder: flip_last_byte(folder / "tokenizer" / "tokenizer.json"),
        lambda folder: (folder / "tokenizer" / "added_tokens.txt").write_text("ring"),
        lambda folder: change(folder / "scheduler" / "scheduler_config.json", shift=3.0),
        lambda folder: change(folder / "vae" / "config.json", latents_mean=[1.0] * 16),
        lambda folder: change(folder / "model_index.json", boundary_ratio=0.9),
    ],
    ids=["weights", "tokenizer", "vocabulary", "scheduler", "latents_mean", "boundary"],
)
def test_sha256_follows_all_that_decides_latents_and_embeddings(
    tiny_wan_folder: Path, moved: Path, alter: Callable[[Path], object]
) -> None:
    alter(moved)
    assert source.teacher_sha256(moved) != source.teacher_sha256(tiny_wan_folder)


def test_frames_per_second(tmp_path: Path) -> None:
    sizes_file = tmp_path / "fewstep.json"
    assert source.configured_fps(tmp_path) is None
    sizes_file.write_text('{"num_frames": 9}')
    assert source.configured_fps(tmp_path) is None
    sizes_file.write_text('{"fps": 12}')
    assert source.configured_fps(tmp_path) == 12.0
    for wrong in ("0", "-1", "true", '"8"', "NaN", "Infinity"):
        sizes_file.write_text(f'{{"fps": {wrong}}}')
        with pytest.raises(ValueError, match=r"fewstep\.json: fps is .*; it must be a number above 0"):
            source.configured_fps(tmp_path)


def test_default_size(tiny_wan_folder: Path, tiny_teacher: Teacher, tmp_path: Path) -> None:
    assert tiny_teacher.default_size() == (9, 16, 16)
    assert source.default_size(tmp_path, type(tiny_teacher.pipeline)) == (81, 480, 832)
    assert source.default_size(tmp_path, nn.Module) is None
    (tmp_path / "fewstep.json").write_text("{")
    with pytest.raises(ValueError, match="not a JSON object"):
        source.default_size(tmp_path, nn.Module)


def test_the_embedded_teacher_is_called_shapes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert embedded_path().parts[-3:] == ("teacher", "shapes", "pipeline")
    monkeypatch.setattr(source, "PIPELINE", tmp_path / "none")
    with pytest.raises(ValueError, match="fewstep teacher train"):
        load_teacher("shapes")


def test_missing_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        load_teacher(tmp_path / "none")
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        load_teacher(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="neither a folder nor a hub model"):
        load_teacher("fewstep/does-not-exist")


def test_hub_models_are_downloaded_once_their_family_is_known(
    tiny_wan_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, downloads = {"_class_name": "FluxPipeline"}, list[str]()

    def download(name: str, use_safetensors: bool) -> str:
        assert use_safetensors
        downloads.append(name)
        return str(tiny_wan_folder)

    monkeypatch.setattr(DiffusionPipeline, "load_config", lambda name: index)
    monkeypatch.setattr(DiffusionPipeline, "download", download)
    with pytest.raises(ValueError, match="does not know"):
        source.find_teacher_folder("someone/model", ("WanPipeline",))
    assert not downloads
    index["_class_name"] = "WanPipeline"
    assert source.find_teacher_folder("someone/model", ("WanPipeline",)) == (tiny_wan_folder, "WanPipeline")
    assert downloads == ["someone/model"]


@pytest.mark.parametrize("index", ["{}", '{"_class_name": "FluxPipeline"}'])
def test_unknown_families_are_refused_with_the_known_ones(tmp_path: Path, index: str) -> None:
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=r"does not know: use one of WanPipeline"):
        load_teacher(tmp_path)


def test_damaged_folders_are_refused(tiny_wan_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "copy"
    shutil.copytree(tiny_wan_folder, moved)
    weights = next(moved.glob("transformer/*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match="is a pickle"):
        load_teacher(moved)
    weights.with_suffix(".bin").unlink()
    with pytest.raises(ValueError, match=r"transformer/diffusion_pytorch_model\.safetensors is missing"):
        load_teacher(moved)
    (moved / "model_index.json").write_text("not json")
    with pytest.raises(ValueError, match="not a JSON object"):
        load_teacher(moved)
