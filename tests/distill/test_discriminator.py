"""Feature taps, heads, and whose weights are whose."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from fewstep.distill.discriminator import Discriminator, DiscriminatorSettings
from fewstep.distill.heads import Head
from fewstep.student.adapters import adapter_parameters, add_adapter, shared_copy
from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import Conditions
from fewstep.teacher.load_teacher import load_teacher

SHAPE = (16, 3, 4, 4)
PROMPTS = ["a red circle", "a big blue square moves left over a dark background"]
T, S = torch.tensor([1.0, 0.6]), torch.tensor([0.5, 0.2])


@pytest.fixture(scope="module")
def conditions(tiny_teacher: Teacher) -> Conditions:
    return tiny_teacher.conditions(PROMPTS)


def make(teacher: Teacher, conditional: bool = True, **settings: object) -> Discriminator:
    torch.manual_seed(0)
    chosen = DiscriminatorSettings.model_validate({"width": 8} | settings)
    clips = teacher.noise([20, 21], SHAPE)
    return Discriminator(teacher, teacher.network_at(1.0), chosen, clips, teacher.conditions(["", ""]), conditional)


def latents(teacher: Teacher, *seeds: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return teacher.noise(seeds, shape)


def of_pair(judge: Discriminator, z_s: Tensor, z_t: Tensor, conditions: Conditions, t: Tensor = T) -> Tensor:
    logits: Tensor = judge(z_s, S, conditions, judge.read(z_t, t, conditions))
    return logits


@pytest.mark.parametrize("folder", ["tiny_wan_folder", "tiny_cogvideox_folder", "tiny_animatediff_folder"])
def test_one_logit_per_clip_and_head_whatever_the_family(folder: str, request: pytest.FixtureRequest) -> None:
    teacher = load_teacher(request.getfixturevalue(folder), device="cpu")
    size = teacher.default_size()
    assert size is not None
    shape, conditions = teacher.latent_shape(*size), teacher.conditions(PROMPTS)
    settings, clips = DiscriminatorSettings(width=8, depths=(0.25, 1.0)), teacher.noise([8, 9], shape)
    judge = Discriminator(teacher, teacher.network_at(1.0), settings, clips, conditions, conditional=True)
    z_s = teacher.noise([0, 1], shape).requires_grad_()
    logits = judge(z_s, S, conditions, judge.read(teacher.noise([2, 3], shape), T, conditions))
    assert logits.shape == (2, 2)
    logits.sum().backward()
    assert z_s.grad is not None
    assert (z_s.grad.flatten(1).abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("shape", [(16, 1, 2, 2), (16, 1, 4, 4), (16, 5, 2, 6)])
@pytest.mark.parametrize("temporal", [True, False])
def test_any_length_and_size(
    tiny_teacher: Teacher, conditions: Conditions, shape: tuple[int, ...], temporal: bool
) -> None:
    """The first has a single place per clip: normalisation must leave something of it."""
    judge = make(tiny_teacher, temporal=temporal)
    z_s, z_t = latents(tiny_teacher, 0, 1, shape=shape), latents(tiny_teacher, 2, 3, shape=shape)
    logits = of_pair(judge, z_s, z_t, conditions)
    assert logits.shape == (2, 3)
    assert not torch.allclose(logits, of_pair(judge, 2 * z_s, z_t, conditions), rtol=1e-3)


def test_clips_do_not_see_one_another(tiny_teacher: Teacher, conditions: Conditions) -> None:
    judge, z_s, z_t = make(tiny_teacher), latents(tiny_teacher, 0, 1), latents(tiny_teacher, 2, 3)
    together = of_pair(judge, z_s, z_t, conditions)
    for i in range(2):
        part = slice(i, i + 1)
        alone = judge(z_s[part], S[part], conditions[part], judge.read(z_t[part], T[part], conditions[part]))
        torch.testing.assert_close(together[part], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("conditional", [True, False])
def test_several_endpoints_of_each_start(tiny_teacher: Teacher, conditions: Conditions, conditional: bool) -> None:
    judge = make(tiny_teacher, conditional)
    real, fake = latents(tiny_teacher, 0, 1), latents(tiny_teacher, 4, 5)
    starts = judge.read(latents(tiny_teacher, 2, 3), T, conditions) if conditional else None
    both = judge(torch.cat([real, fake]), S, conditions, starts)
    apart = [judge(z_s, S, conditions, starts) for z_s in (real, fake)]
    torch.testing.assert_close(both, torch.cat(apart), atol=1e-5, rtol=1e-4)


def test_a_conditional_one_sees_where_the_step_started(tiny_teacher: Teacher, conditions: Conditions) -> None:
    judge, z_s, z_t = make(tiny_teacher), latents(tiny_teacher, 0, 1), latents(tiny_teacher, 2, 3)
    logits = of_pair(judge, z_s, z_t, conditions)
    for other in (
        of_pair(judge, z_s, -z_t, conditions),
        of_pair(judge, z_s, z_t, conditions, T * 0.9),
    ):
        assert not torch.allclose(logits, other, rtol=1e-3)
    with pytest.raises(ValueError, match="conditional discriminator needs starts"):
        judge(z_s, S, conditions)


def test_a_relaxed_one_is_told_nothing_of_the_start(tiny_teacher: Teacher, conditions: Conditions) -> None:
    judge, z_s = make(tiny_teacher, conditional=False), latents(tiny_teacher, 0, 1)
    assert judge(z_s, S, conditions).shape == (2, 3)
    with pytest.raises(ValueError, match="relaxed discriminator takes no starts"):
        judge(z_s, S, conditions, judge.read(z_s, S, conditions))


def test_logits_are_exact_under_autocast(tiny_teacher: Teacher, conditions: Conditions) -> None:
    """Else the finite differences of the gradient penalty would be those of rounding."""
    judge, z_s = make(tiny_teacher, conditional=False), latents(tiny_teacher, 0, 1)
    features = judge.read(z_s, S, conditions)
    with torch.autocast("cpu", torch.bfloat16):
        logits = judge(z_s, S, conditions)
        rounded = torch.cat([head(f) for head, f in zip(judge.heads, features, strict=True)], dim=1)
    assert logits.dtype == torch.float32 and rounded.dtype == torch.bfloat16
    torch.testing.assert_close(logits, judge(z_s, S, conditions), atol=0.02, rtol=0.1)


def test_a_frozen_backbone_is_neither_part_of_it_nor_touched(tiny_teacher: Teacher, conditions: Conditions) -> None:
    judge, network = make(tiny_teacher), tiny_teacher.network_at(1.0)
    assert all(name.startswith("heads.") for name in judge.state_dict())
    assert not {*judge.parameters()} & {*network.parameters()}
    judge.train().requires_grad_(True)
    judge(
        latents(tiny_teacher, 0, 1), S, conditions, judge.read(latents(tiny_teacher, 2, 3), T, conditions)
    ).sum().backward()
    assert all(parameter.grad is not None for parameter in judge.parameters())
    assert not network.training
    assert not any(p.requires_grad or p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("backbone", ["trained", "lora"])
def test_an_own_backbone_learns_and_the_teacher_does_not(
    tiny_teacher: Teacher, conditions: Conditions, backbone: str
) -> None:
    before = deepcopy(tiny_teacher.network_at(1.0).state_dict())
    judge, z_s, z_t = make(tiny_teacher, backbone=backbone), latents(tiny_teacher, 0, 1), latents(tiny_teacher, 2, 3)
    x0 = tiny_teacher.denoise(z_s, S, conditions)
    logits = of_pair(judge, z_s, z_t, conditions)
    own = {name: p for name, p in judge.named_parameters() if not name.startswith("heads.")}
    optimizer = torch.optim.SGD(own.values(), lr=100.0 if backbone == "lora" else 10.0)
    for _ in range(2):  # the first step only opens LoRA's zero half
        optimizer.zero_grad()
        of_pair(judge, z_s, z_t, conditions).square().sum().backward()
        optimizer.step()
    assert not torch.allclose(of_pair(judge, z_s, z_t, conditions), logits, rtol=1e-2)
    assert all(torch.equal(before[name], value) for name, value in tiny_teacher.network_at(1.0).state_dict().items())
    assert torch.equal(tiny_teacher.denoise(z_s, S, conditions), x0)
    assert not any(p.requires_grad or p.grad is not None for p in tiny_teacher.network_at(1.0).parameters())
    fresh = make(tiny_teacher, backbone=backbone)
    fresh.load_state_dict(judge.state_dict())
    torch.testing.assert_close(
        of_pair(fresh, z_s, z_t, conditions),
        of_pair(judge, z_s, z_t, conditions),
    )


def test_adapters_share_the_teachers_weights(tiny_teacher: Teacher) -> None:
    frozen, lora = make(tiny_teacher), make(tiny_teacher, backbone="lora", lora_rank=2)
    (backbone,) = lora._backbone
    weights = {p.data_ptr() for p in tiny_teacher.network_at(1.0).parameters()}
    assert weights < {p.data_ptr() for p in backbone.parameters()}
    assert not weights & {p.data_ptr() for p in lora.parameters()}
    assert len([*lora.parameters()]) > len([*frozen.parameters()])
    assert all(p.requires_grad and p.dtype == torch.float32 for p in lora.parameters())


@pytest.mark.parametrize("backbone", ["frozen", "trained", "lora"])
def test_a_students_adapter_on_the_same_weights_never_meets_it(
    tiny_teacher: Teacher, conditions: Conditions, backbone: str
) -> None:
    z_s, z_t = latents(tiny_teacher, 0, 1), latents(tiny_teacher, 2, 3)
    first = make(tiny_teacher, backbone=backbone)
    expected = of_pair(first, z_s, z_t, conditions)
    student = shared_copy(tiny_teacher.network_at(1.0))
    add_adapter(student, "student", rank=2, alpha=2)
    adapter = adapter_parameters(student, "student")
    for parameter in adapter.values():
        torch.nn.init.normal_(parameter)
    x0 = tiny_teacher.denoise(z_s, S, conditions, network=student)
    judge = make(tiny_teacher, backbone=backbone)
    torch.testing.assert_close(of_pair(judge, z_s, z_t, conditions), expected)
    assert torch.equal(tiny_teacher.denoise(z_s, S, conditions, network=student), x0)
    assert all(parameter.requires_grad for parameter in adapter.values())
    assert not {*adapter.values()} & {*judge.parameters()}


def test_features_are_standardised_by_those_of_real_clips(
    tiny_teacher: Teacher, conditions: Conditions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over levels of noise, per channel, whatever is judged later; and again when it is loaded."""
    clips = 3 * latents(tiny_teacher, *range(8))
    settings, backbone = DiscriminatorSettings(width=8), tiny_teacher.network_at(1.0)
    many = Conditions.join([conditions] * 4)
    read, ask = list[int](), tiny_teacher.features

    def noted(z: Tensor, *args: Any) -> list[Tensor]:
        read.append(len(z))
        return ask(z, *args)

    with monkeypatch.context() as patched:
        patched.setattr(tiny_teacher, "features", noted)
        judge = Discriminator(tiny_teacher, backbone, settings, clips, many, conditional=False)
    features = judge.read(clips, torch.linspace(0.02, 0.98, 8), many)
    for head, feature in zip(judge.heads, features, strict=True):
        assert isinstance(head, Head)
        shown = head.layers[0](feature)
        assert float(shown.mean(dim=(0, 2, 3, 4)).abs().max()) < 1 and 0.3 < float(shown.std()) < 3
    assert read == [1] * 8  # one clip at a time, so that it takes no more memory than a step
    other = make(tiny_teacher, conditional=False)
    assert not torch.allclose(judge(clips[:2], S, conditions), other(clips[:2], S, conditions))
    other.load_state_dict(judge.state_dict())
    assert torch.equal(judge(clips[:2], S, conditions), other(clips[:2], S, conditions))


@pytest.mark.parametrize(
    "wrong", [{"norm": "batch"}, {"depths": []}, {"depths": [0.0]}, {"width": 4}, {"backbone": "none"}, {"dept": 1}]
)
def test_settings_refuse(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DiscriminatorSettings.model_validate(wrong)
