"""SkyReels V2 (arXiv 2504.13074): Wan 2.1's architecture trained for longer clips at 24 frames per second.

The variants with diffusion forcing, whose frames have times of their own, are other pipelines and are not supported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.models.transformers.transformer_skyreels_v2 import SkyReelsV2TransformerBlock

from fewstep.teacher.families.wan import WanTeacher
from fewstep.teacher.families.wan_image import WanImageTeacher
from fewstep.teacher.pipelines.index import read_json

SKYREELS_FPS = 24.0
FLOW = "flow_prediction"
FORCING = (
    "with diffusion forcing every frame has a time of its own, and a clip is made piece by piece, so that there are no "
    "few steps from noise to clip that a student could learn; use a checkpoint without DF in its name, such as "
    "Skywork/SkyReels-V2-T2V-14B-540P-Diffusers"
)


def check_plain(folder: Path) -> None:
    """Raises ValueError for a denoiser of diffusion forcing, and a scheduler that takes its velocity for noise."""
    transformer = folder / "transformer" / "config.json"
    if transformer.is_file() and read_json(transformer).get("inject_sample_info"):
        raise ValueError(
            f"the transformer in {folder} has inject_sample_info, which only those for diffusion forcing have: "
            f"{FORCING}"
        )
    config = folder / "scheduler" / "scheduler_config.json"
    # the network's output is a velocity: by another name the scheduler would take it for something else
    if (
        config.is_file()
        and (settings := read_json(config)).get("use_flow_sigmas")
        and settings.get("prediction_type") != FLOW
    ):
        raise ValueError(
            f"{config} has use_flow_sigmas and prediction_type {settings.get('prediction_type')!r}, so that the "
            "velocity "
            f"would be taken for something else: set it to {FLOW!r}, as diffusers' conversion of the checkpoints does"
        )


class SkyReelsTeacher(WanTeacher):
    """Adapter for SkyReelsV2Pipeline. Its attention computes the text's padding, so that stays whole."""

    block_classes = (SkyReelsV2TransformerBlock,)
    comfyui = None  # the files have Wan's names, but what ComfyUI assumes about them was not checked

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._cut = False
        self.family_fps = SKYREELS_FPS

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """No diffusion forcing."""
        super().check_folder(folder, index)
        check_plain(folder)


class SkyReelsImageTeacher(SkyReelsTeacher, WanImageTeacher):
    """Adapter for SkyReelsV2ImageToVideoPipeline: a first frame, as Wan 2.1 takes it."""
