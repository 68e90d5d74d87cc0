"""AnimateDiff that follows a video of poses, depths or edges by a ControlNet (arXiv 2302.05543), which stays frozen."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import Conditions, Tensors
from fewstep.teacher.families.animatediff import AnimateDiffTeacher
from fewstep.teacher.given import Given
from fewstep.teacher.pipelines.index import read_json
from fewstep.teacher.stock import Contract

CONTROL_PIXELS = "control"  # (B, 3, F, H, W), 0..255


class AnimateDiffControlNetTeacher(AnimateDiffTeacher):
    """Adapter for AnimateDiffControlNetPipeline. The ControlNet sees z and t, too, so it is asked with every pass, for
    student and discriminator as for the teacher, and gradients to z pass through it."""

    takes = needs = ("control",)
    given_arguments = MappingProxyType({"control": "conditioning_frames"})
    control_layers = 1  # all that the ControlNet adds has one scale

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """The frames as they are: what the ControlNet makes of them is larger."""
        return {CONTROL_PIXELS: given["control"].to(self.device)}

    def _inputs(self, z: Tensor, times: Tensor, text: Tensor, conditions: Conditions) -> dict[str, Any]:
        """What the ControlNet adds to the UNet's blocks, frame by frame."""
        network: Any = self.pipeline.controlnet
        frames = conditions.shared[CONTROL_PIXELS].to(z.device, torch.float32) / 255
        # a ControlNet is one of images: frames go into the batch, each with its clip's time
        frames, pictures = (x.transpose(1, 2).flatten(0, 1).to(network.dtype) for x in (frames, z))
        frame_times = times.repeat_interleave(z.shape[2])
        (scale,) = self.control_scales
        down, middle = network(pictures, frame_times, text.to(network.dtype), frames, scale, return_dict=False)
        return {
            "down_block_additional_residuals": tuple(x.to(z.dtype) for x in down),
            "mid_block_additional_residual": middle.to(z.dtype),
        }

    base_classes: tuple[str, ...] = ()  # image models have no ControlNet with them

    def call_arguments(self, contract: Contract, given: Given | None = None) -> dict[str, Any]:
        """With the control scale."""
        return super().call_arguments(contract, given) | {"controlnet_conditioning_scale": contract.control_scale}

    # --- what its folders may hold

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """Refuses several ControlNets, and such as see their image as a whole."""
        super().check_folder(folder, index)
        if "ControlNetModel" not in (index.get("controlnet") or ()):
            raise ValueError(
                f"{folder} does not hold a single ControlNetModel as its controlnet, and several at once are not known "
                "here: save the pipeline with one"
            )
        config = folder / "controlnet" / "config.json"
        if config.is_file() and read_json(config).get("global_pool_conditions"):
            raise ValueError(
                f"the ControlNet in {folder} sees images as a whole (global_pool_conditions) and not in the "
                "unconditional branch, which is not known here: use one for poses, depths or edges"
            )
