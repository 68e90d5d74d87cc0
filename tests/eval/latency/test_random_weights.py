"""Architectures filled with random numbers: the real sizes, and pipelines that sample."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from fewstep.eval.latency.random_weights import _PACKAGED, _part, random_teacher
from fewstep.student.sampler import SamplingOptions, teacher_sampler
from fewstep.teacher.base import Teacher
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.pipelines.parts import PipelinePart

FAMILIES = ["tiny_wan_folder", "tiny_cogvideox_folder", "tiny_animatediff_folder"]


def configs_of(folder: Path, copy: Path) -> Path:
    """The folder without weights and tokenizer."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.safetensors", "tokenizer"))
    return copy


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: p.shape for name, p in module.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_configs_alone_make_a_teacher_that_samples(request: pytest.FixtureRequest, family: str, tmp_path: Path) -> None:
    folder = request.getfixturevalue(family)
    teacher = random_teacher(str(configs_of(folder, tmp_path / "configs")), device="cpu")
    real = load_teacher(folder, device="cpu")
    assert (
        type(teacher) is type(real)
        and teacher.schedule == real.schedule
        and teacher.default_size() == real.default_size()
    )
    for part in ("text_encoder", "vae"):
        assert shapes(getattr(teacher.pipeline, part)) == shapes(getattr(real.pipeline, part))
    assert shapes(teacher.network_at(1.0)) == shapes(real.network_at(1.0))
    clips = teacher_sampler(teacher, "random", SamplingOptions(2, 3.0)).clips(["a ring"], [0])
    size = real.default_size()
    assert size is not None and clips.shape == (1, 3, *size) and bool(clips.isfinite().all())


def test_without_text_the_embeddings_keep_their_shape(tiny_wan_folder: Path) -> None:
    whole = random_teacher(str(tiny_wan_folder), device="cpu")
    bare = random_teacher(str(tiny_wan_folder), device="cpu", with_text=False)
    count = [sum(p.numel() for p in t.pipeline.text_encoder.parameters()) for t in (whole, bare)]
    assert count[1] < count[0]
    assert _shape(whole) == _shape(bare)


def _shape(teacher: Teacher) -> torch.Size:
    return teacher.conditions(["a ring"]).positive["embeddings"].shape


def test_precision_is_as_real_weights_are_loaded(tiny_wan_folder: Path) -> None:
    teacher = random_teacher(str(tiny_wan_folder), torch.bfloat16, "cpu")
    real = load_teacher(tiny_wan_folder, torch.bfloat16, "cpu")
    for part in ("transformer", "text_encoder", "vae"):
        pair = [dict(getattr(t.pipeline, part).named_parameters()) for t in (teacher, real)]
        assert {n: p.dtype for n, p in pair[0].items()} == {n: p.dtype for n, p in pair[1].items()}, part


def test_wan_1_3b_has_its_published_size() -> None:
    """1.42 billion parameters in the denoiser, 127 million in the autoencoder, 5.68 billion in the text encoder."""
    folder = _PACKAGED / "wan2.1-t2v-1.3b"
    parts = {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan"}
    modules = [_part(folder / part, PipelinePart("diffusers", name), True) for part, name in parts.items()]
    modules.append(_part(folder / "text_encoder", PipelinePart("transformers", "UMT5EncoderModel"), True))
    counts = [sum(p.numel() for p in module.parameters()) / 1e6 for module in modules]
    assert counts == pytest.approx([1419, 127, 5681], rel=1e-3)
    assert all(p.is_meta for module in modules for p in module.parameters())


def test_mistakes_are_told(tiny_wan_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no architecture wan9: use wan2\.1-t2v-1\.3b"):
        random_teacher("wan9")
    folder = configs_of(tiny_wan_folder, tmp_path / "configs")
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(ValueError, match="does not describe the AutoencoderKLWan"):
        random_teacher(str(folder))
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match="is a FluxPipeline, a family that fewstep does not know"):
        random_teacher(str(folder))
