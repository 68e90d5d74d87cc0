"""LoRAs of pipelines with a loader, and of those whose denoiser alone has one; and what else a student must be told."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fewstep.student.export.base import EXACT, Exported
from fewstep.student.loading import Student
from fewstep.student.sampler import SamplingOptions, open_sampler

LOADED = {
    "hunyuan_video": """pipe.load_lora_weights(".")""",
    "hunyuan_video15": """pipe.transformer.load_lora_adapter(".", weight_name='pytorch_lora_weights.safetensors', """
    """prefix='transformer')""",
}


@pytest.mark.parametrize("family", ["hunyuan_video15", pytest.param("hunyuan_video", marks=pytest.mark.slow)])
def test_a_lora_loads_as_its_card_says(
    make_student: Callable[..., Student], make_export: Callable[..., Exported], family: str
) -> None:
    student, done = make_student(family, "lora"), make_export(family, "lora", "lora")
    assert done.relative_error < EXACT
    card = (done.folder / "README.md").read_text()
    assert LOADED[family] in card
    assert ("pipe.guider = type(pipe.guider).from_config(pipe.guider.config, enabled=False)" in card) == (
        family == "hunyuan_video15"
    )
    sampler = open_sampler(done.folder, teacher=student.teacher)
    z = sampler.noise([3])
    own = student.sample(z, student.teacher.conditions(["a red ring"]))
    torch.testing.assert_close(sampler.sample(z, sampler.conditions(["a red ring"])), own, atol=1e-4, rtol=1e-4)


def test_a_student_keeps_to_what_its_denoiser_was_told(make_export: Callable[..., Exported]) -> None:
    done = make_export("hunyuan_video", "lora", "diffusers")
    assert "guidance_scale=6.0" in (done.folder / "README.md").read_text()
    with pytest.raises(ValueError, match="the student was trained for embedded_guidance 6, not 4"):
        open_sampler(done.folder, SamplingOptions(embedded_guidance=4.0), device="cpu")
    forced = open_sampler(done.folder, SamplingOptions(embedded_guidance=4.0, force=True), device="cpu")
    assert forced.teacher.embedded_guidance == 4.0
