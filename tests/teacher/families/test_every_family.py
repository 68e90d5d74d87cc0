"""What holds for every family: the rest of the project relies on this and on nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.families import FAMILIES
from fewstep.teacher.families.hunyuan_video15 import HunyuanVideo15Teacher
from fewstep.teacher.given import noise_given
from fewstep.teacher.load_teacher import load_teacher

PROMPTS = ["a red circle", "a big blue square moves left over a dark background"]
FOLDERS = [
    "tiny_wan_folder",
    "tiny_wan_i2v_folder",
    "tiny_wan_vace_folder",
    "tiny_wan_animate_folder",
    "tiny_cogvideox_folder",
    "tiny_animatediff_folder",
    "tiny_ltx_folder",
    "tiny_ltx_image_folder",
    "tiny_ltx_condition_folder",
    "tiny_ltx2_folder",
    "tiny_ltx2_image_folder",
    "tiny_sd_folder",
    "tiny_sdxl_folder",
    "tiny_controlnet_folder",
    "tiny_hunyuan_video_folder",
    "tiny_hunyuan_video_image_folder",
    "tiny_hunyuan_video15_folder",
    "tiny_hunyuan_video15_image_folder",
    "tiny_skyreels_folder",
    "tiny_skyreels_image_folder",
    "tiny_sana_video_folder",
    "tiny_sana_video_image_folder",
    "tiny_kandinsky_folder",
    "tiny_kandinsky_image_folder",
    "tiny_svd_folder",
    "tiny_cogvideox_image_folder",
    "tiny_cogvideox_control_folder",
    "tiny_mochi_folder",
]
# Read texts, and have networks, as another one above does: what they are given besides is their own.
LIKE_ANOTHER = (
    "tiny_wan_i2v_folder",
    "tiny_controlnet_folder",
    "tiny_ltx_image_folder",
    "tiny_ltx_condition_folder",
    "tiny_ltx2_image_folder",
    "tiny_hunyuan_video15_image_folder",
    "tiny_skyreels_image_folder",
    "tiny_sana_video_image_folder",
    "tiny_kandinsky_image_folder",
    "tiny_cogvideox_image_folder",
    "tiny_cogvideox_control_folder",
)
# For tests in which nothing that is given takes part.
once_per_network = pytest.mark.parametrize(
    "folder",
    [pytest.param(name, marks=pytest.mark.slow) if name in LIKE_ANOTHER else name for name in FOLDERS],
    indirect=True,
    scope="module",
)


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Teacher:
    return load_teacher(folder, device="cpu")


@pytest.fixture(scope="module")
def conditions(teacher: Teacher) -> Conditions:
    return conditions_of(teacher, PROMPTS, "blurry")


def conditions_of(teacher: Teacher, prompts: list[str], negative_prompt: str = "") -> Conditions:
    """With images of noise where the family is given something."""
    size = size_of(teacher)
    return teacher.conditions(prompts, negative_prompt, size, noise_given(teacher.given_sizes(size), len(prompts)))


def size_of(teacher: Teacher) -> VideoSize:
    size = teacher.default_size()
    assert size is not None
    small = VideoSize(size.num_frames, 32, 48)
    try:
        teacher.latent_shape(*small)
    except ValueError:  # of families whose sides are multiples of 32
        return VideoSize(size.num_frames, 64, 96)
    return small


@pytest.fixture
def z(teacher: Teacher) -> Tensor:
    return teacher.noise([0, 1], teacher.latent_shape(*size_of(teacher)))


def close(actual: Tensor, expected: Tensor) -> None:
    assert float((actual - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))


def lora_copy(teacher: Teacher) -> Any:
    """A copy with adapters wherever it may have them."""
    student: Any = copy.deepcopy(teacher.network_at(1.0))
    layers = {name: module for name, module in student.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    whole = [name for name, module in layers.items() if getattr(module, "groups", 1) == 1]
    inside = [name for name in whole if "block" in name.split(".")[0]]
    return inject_adapter_in_model(LoraConfig(r=2, target_modules=inside), student)


def test_all_families_are_here(request: pytest.FixtureRequest) -> None:
    indices = [request.getfixturevalue(name) / "model_index.json" for name in FOLDERS]
    assert {json.loads(index.read_text())["_class_name"] for index in indices} == set(FAMILIES)


@once_per_network
def test_prompts_are_cut_at_the_text_limit_and_not_before(teacher: Teacher) -> None:
    if not teacher.reads_text:
        pytest.skip("it reads no prompts")
    most = teacher.text_limit - 1  # words apart from the end's token
    whole, other, longer = "ring " * most, "ring " * (most - 1) + "square", "ring " * (most + 7)
    assert teacher.count_tokens([whole, other, longer]) == [teacher.text_limit] * 2 + [teacher.text_limit + 7]
    actual, differing, cut = (
        conditions_of(teacher, [prompt]).positive["embeddings"] for prompt in (whole, other, longer)
    )
    assert torch.equal(actual, cut) and not torch.equal(actual, differing)


@once_per_network
def test_words_beyond_the_vocabulary_are_named(teacher: Teacher) -> None:
    if not teacher.reads_text:
        pytest.skip("it reads no prompts")
    assert teacher.unknown_words(["a red ring", "a  red zebra &amp; 3 rings"])[1][:1] == ["zebra"]
    assert teacher.unknown_words(["a red ring"]) == [[]]


def test_videos_become_latents_and_come_back(teacher: Teacher) -> None:
    if teacher.unencodable:
        pytest.skip("its clips are more than what is read of videos")
    size = teacher.default_size()
    assert size is not None
    video = torch.rand(2, 3, *size) * 2 - 1
    given = noise_given(teacher.given_sizes(size), 2)
    latents = teacher.place_given(teacher.encode(video), teacher.conditions(PROMPTS, None, size, given))
    assert latents.shape == (2, *teacher.latent_shape(*size)) and latents.dtype == torch.float32
    decoded = teacher.decode(latents)
    assert decoded.shape == video.shape and decoded.dtype == torch.float32


def test_x0_follows_from_the_prediction(teacher: Teacher, conditions: Conditions, z: Tensor) -> None:
    t, both = torch.tensor([1.0, 0.4]), conditions_of(teacher, PROMPTS)
    assert both.negative is not None
    empty = Conditions(both.negative, shared=both.shared, padded=both.padded)
    c = teacher.denoise(z, t, conditions)
    assert c.shape == z.shape and c.dtype == torch.float32
    actual, kept = teacher.schedule.to_x0(teacher.predict(z, t, conditions), z, t), teacher.kept(conditions, z)
    close(c, actual if kept is None else kept.pin(actual))
    u, guided = teacher.denoise(z, t, empty), teacher.denoise(z, t, both, 5.0)
    if type(teacher).guide is Teacher.guide:  # others guide by more, as their own tests hold
        close(guided, u + teacher.spread_guidance(torch.full((2, 1, 1, 1, 1), 5.0), z) * (c - u))


@once_per_network
def test_text_and_time_matter(teacher: Teacher, conditions: Conditions, z: Tensor) -> None:
    """Otherwise parity would be empty."""
    actual = teacher.predict(z, 0.7, conditions)
    assert float((actual - teacher.predict(z, 0.7, conditions[[1, 0]])).abs().max()) > 1e-3
    assert float((actual - teacher.predict(z, 0.3, conditions)).abs().max()) > 1e-3


@once_per_network
def test_a_text_without_its_padding_is_read_alike(teacher: Teacher, conditions: Conditions, z: Tensor) -> None:
    """As datasets keep it."""
    actual, rows = teacher.predict(z, 0.7, conditions), [conditions.row(i) for i in range(2)]
    close(teacher.predict(z, 0.7, Conditions.join(rows)), actual)
    for i, row in enumerate(rows):
        close(teacher.predict(z[i : i + 1], 0.7, row), actual[i : i + 1])


def test_every_sample_has_its_own_time(teacher: Teacher, conditions: Conditions, z: Tensor) -> None:
    t = torch.tensor([0.9, 0.4])
    together = teacher.denoise(z, t, conditions, 5.0)
    for i in range(2):
        close(teacher.denoise(z[i : i + 1], float(t[i]), conditions[i : i + 1], 5.0), together[i : i + 1])


@once_per_network
def test_a_copy_is_as_good_as_the_teacher(teacher: Teacher, conditions: Conditions, z: Tensor) -> None:
    student = copy.deepcopy(teacher.network_at(1.0))
    # frozen, for weights with gradients may be multiplied by a kernel that rounds otherwise
    again = teacher.denoise(z, 0.7, conditions, 5.0, student)
    assert torch.equal(again, teacher.denoise(z, 0.7, conditions, 5.0))
    actual = teacher.denoise(z, 0.7, conditions, 5.0, student.requires_grad_(True))
    actual.square().mean().backward()
    text_ends_there = isinstance(teacher, HunyuanVideo15Teacher)  # in the last block, whose text nothing reads
    unread = set(teacher.blocks(student)[-1].parameters()) if text_ends_there else set()
    assert all(p.grad is not None or p in unread for p in student.parameters())
    assert not any(p.requires_grad for p in teacher.network_at(1.0).parameters())


@once_per_network
def test_adapters_learn_and_the_rest_does_not(teacher: Teacher, conditions: Conditions, z: Tensor) -> None:
    student = lora_copy(teacher)
    actual = teacher.denoise(z, 0.7, conditions, network=student)
    close(actual.detach(), teacher.denoise(z, 0.7, conditions))  # a fresh adapter adds nothing
    actual.square().mean().backward()
    trained = {name for name, p in student.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert trained and all("lora_B" in name for name in trained)  # A learns once B is not zero
    assert len(teacher.taps(student)) == 3


@once_per_network
def test_blocks_hold_what_is_trained(teacher: Teacher) -> None:
    network = teacher.network_at(1.0)
    blocks = teacher.blocks(network)
    # in tensors where blocks of a test's size stand next to a layer of millions
    size = (lambda p: 1) if isinstance(teacher, HunyuanVideo15Teacher) else torch.Tensor.numel
    inside = sum(size(p) for block in blocks for p in block.parameters())
    assert len(set(blocks)) == len(blocks) >= 4 and inside > 0.5 * sum(size(p) for p in network.parameters())


@once_per_network
def test_blocks_are_in_the_order_in_which_they_run(teacher: Teacher, conditions: Conditions, z: Tensor) -> None:
    blocks, ran = teacher.blocks(teacher.network_at(1.0)), []
    handles = [block.register_forward_hook(lambda module, *_: ran.append(module)) for block in blocks]
    teacher.predict(z[:1], 0.7, conditions[:1])  # of one clip: some families are asked for clips one by one
    for handle in handles:
        handle.remove()
    assert ran == blocks


@once_per_network
def test_features_have_gradients_to_what_was_seen(teacher: Teacher, conditions: Conditions, z: Tensor) -> None:
    z.requires_grad_()
    features = teacher.features(z, 0.7, conditions)
    assert len(features) == 3
    for feature in features:
        assert feature.ndim == 5 and len(feature) == 2 and feature.shape[2] == z.shape[2]
        assert feature.shape[3] * 6 == feature.shape[4] * 4  # as high and wide as the clip
    torch.stack([feature.square().mean() for feature in features]).sum().backward()
    assert z.grad is not None and bool(z.grad.flatten(1).any(dim=1).all())


@once_per_network
def test_features_keep_space_and_time_in_place(teacher: Teacher, conditions: Conditions, z: Tensor) -> None:
    """What changes most, where the first block sees a changed last corner, is that corner."""
    changed, first = z.clone(), 1 / len(teacher.blocks(teacher.network_at(1.0)))
    patch = 2 if z.shape[3] > 2 else 1  # the smallest latents are of families without patches
    changed[:, :, -1, -patch:, -patch:] += 10
    before, after = (teacher.features(x, 0.5, conditions, (first,))[0] for x in (z, changed))
    moved = (after - before).square().sum(dim=1)[0]
    place = (moved == moved.max()).nonzero()[0].tolist()
    assert all(i + 1 > 0.75 * n for i, n in zip(place, moved.shape, strict=True))


@once_per_network
def test_half_precision_keeps_latents_in_full(folder: Path, z: Tensor) -> None:
    half = load_teacher(folder, torch.bfloat16, "cpu")
    actual = half.denoise(z, 0.7, conditions_of(half, PROMPTS), 5.0)
    assert actual.dtype == torch.float32 and bool(actual.isfinite().all())
    latents = torch.zeros(1, *half.latent_shape(*(half.default_size() or (0, 0, 0))))
    if not half.unencodable:
        latents = half.encode(torch.zeros(1, 3, *(half.default_size() or ())))
    assert half.decode(latents).dtype == torch.float32


@once_per_network
def test_what_was_freed_is_missed_in_one_sentence(teacher: Teacher) -> None:
    teacher = copy.deepcopy(teacher)
    teacher.free_text()
    teacher.free_vae()
    assert teacher.latent_shape(*(teacher.default_size() or (0, 0, 0)))
    for ask in (lambda: teacher.conditions(["x"]), lambda: teacher.encode(torch.zeros(1, 3, 1, 16, 16))):
        with pytest.raises(ValueError, match="was freed from memory: load the teacher again"):
            ask()
    with pytest.raises(ValueError, match="vae was freed"):
        teacher.decode(torch.zeros(1, 4, 3, 2, 2))


def test_no_prompts(teacher: Teacher) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        teacher.conditions([])
