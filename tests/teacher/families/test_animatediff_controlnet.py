"""The adapter of AnimateDiff with a ControlNet against diffusers' own AnimateDiffControlNetPipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AnimateDiffControlNetPipeline
from PIL import Image

from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.given import noise_given, to_pil
from fewstep.teacher.load_teacher import load_teacher
from fewstep.teacher.outline import outline_teacher
from fewstep.teacher.rollout import rollout
from tests.tiny_controlnet import save_tiny_controlnet
from tests.tiny_ip_adapter import load_tiny_ip_adapter, tiny_image_encoder

SIZE = VideoSize(5, 24, 16)


@pytest.fixture(scope="module")
def teacher(tiny_controlnet_folder: Path) -> Teacher:
    return load_teacher(tiny_controlnet_folder, device="cpu")


@pytest.mark.parametrize("guidance", [pytest.param(1.0, marks=pytest.mark.slow), 7.5])
def test_same_noise_and_control_give_the_stock_latents(
    teacher: Teacher, tiny_controlnet_folder: Path, guidance: float
) -> None:
    given = noise_given(teacher.given_sizes(SIZE))
    z = teacher.noise([5], teacher.latent_shape(*SIZE))
    conditions = teacher.conditions(["a red circle"], "blurry", SIZE, given)
    actual = rollout(teacher, z, conditions, teacher.schedule.grid(4), guidance)
    pipeline: Any = AnimateDiffControlNetPipeline.from_pretrained(tiny_controlnet_folder)
    pipeline.set_progress_bar_config(disable=True)
    (expected,) = pipeline(
        "a red circle", negative_prompt="blurry", **SIZE._asdict(), num_inference_steps=4, guidance_scale=guidance,
        conditioning_frames=to_pil(given["control"][0], "control"), latents=z, output_type="latent", return_dict=False,
    )  # fmt: skip
    assert float((actual - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    other = teacher.conditions(["a red circle"], "blurry", SIZE, {"control": 255 - given["control"]})
    assert float((rollout(teacher, z, other, teacher.schedule.grid(4), guidance) - actual).abs().max()) > 1e-2


def test_the_controlnet_is_asked_at_each_clips_own_time_and_not_trained(teacher: Teacher) -> None:
    given = noise_given(teacher.given_sizes(SIZE), 2)
    z = teacher.noise([5, 6], teacher.latent_shape(*SIZE)).requires_grad_()
    conditions, t = teacher.conditions(["a red circle", "a dot"], "", SIZE, given), torch.tensor([0.9, 0.3])
    together = teacher.denoise(z, t, conditions, 3.0)
    for i in range(2):
        alone = teacher.denoise(z[i : i + 1], float(t[i]), conditions[i : i + 1], 3.0)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-3, rtol=1e-4)
    together.square().mean().backward()
    assert z.grad is not None and bool(z.grad.any())
    assert not any(p.requires_grad for p in teacher.pipeline.controlnet.parameters())


def test_what_it_is_not_made_for_is_refused(teacher: Teacher, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="makes clips from control, and control is missing"):
        teacher.take([])
    with pytest.raises(ValueError, match="shows a reference by an IP-Adapter only, which diffusers loads separately"):
        teacher.take(["control", "reference"])
    save_tiny_controlnet(tmp_path / "pooled", global_pool_conditions=True)
    with pytest.raises(ValueError, match="sees images as a whole"):
        outline_teacher(tmp_path / "pooled")
    index = tmp_path / "pooled" / "model_index.json"
    several = json.loads(index.read_text()) | {"controlnet": ["diffusers", "MultiControlNetModel"]}
    index.write_text(json.dumps(several))
    with pytest.raises(ValueError, match="several at once are not known here"):
        outline_teacher(tmp_path / "pooled")


def test_an_ip_adapter_is_loaded_beside_a_pipeline_and_lost_when_it_is_saved(
    tiny_controlnet_folder: Path, tmp_path: Path
) -> None:
    """What docs/families/animatediff-controlnet.md says of references."""
    pipeline: Any = AnimateDiffControlNetPipeline.from_pretrained(tiny_controlnet_folder, **tiny_image_encoder())
    pipeline.set_progress_bar_config(disable=True)
    load_tiny_ip_adapter(pipeline)
    frames = [Image.new("RGB", SIZE[:0:-1], color) for color in ("red", "blue", "white", "black", "green")]
    shown = [
        pipeline(
            "a ring", **SIZE._asdict(), num_inference_steps=2, guidance_scale=1.0, conditioning_frames=frames,
            latents=torch.ones(1, 4, 5, 12, 8), ip_adapter_image=picture, output_type="latent", return_dict=False,
        )[0]
        for picture in frames[:2]
    ]  # fmt: skip
    assert not torch.equal(*shown)  # so a student's pipeline, which is of the same class, shows references
    pipeline.save_pretrained(tmp_path / "saved")
    assert AnimateDiffControlNetPipeline.from_pretrained(tmp_path / "saved").unet.encoder_hid_proj is None
    with pytest.raises(ValueError, match=r"saved with an IP-Adapter in it, .*: call unload_ip_adapter\(\)"):
        outline_teacher(tmp_path / "saved")
    pipeline.unload_ip_adapter()
    pipeline.save_pretrained(tmp_path / "unloaded")
    assert outline_teacher(tmp_path / "unloaded").whole
