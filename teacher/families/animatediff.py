"""AnimateDiff text-to-video (arXiv 2307.04725): an eps-predicting Stable Diffusion UNet with motion modules."""

from __future__ import annotations

from math import lcm
from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions
from fewstep.teacher.families.limits import check_sides
from fewstep.teacher.families.unet import UNetTeacher
from fewstep.teacher.schedule import Time

USUAL_FRAMES = 16  # what motion modules are trained with


class MotionModule(AnimateDiffTransformer3D):  # type: ignore[misc]
    """Attention over frames whose projections may carry LoRA: diffusers names their argument, which peft refuses."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,
        timestep: None = None,
        class_labels: None = None,
        num_frames: int = 1,
        cross_attention_kwargs: None = None,
    ) -> Tensor:
        """(B F, C, h, w) -> the same, as in diffusers, where the arguments that are None here are None too."""
        grid = self.norm(hidden_states.unflatten(0, (-1, num_frames)).transpose(1, 2)).permute(0, 3, 4, 2, 1)
        tokens = self.proj_in(grid.flatten(0, 2))  # (B h w, F, C)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        grid = self.proj_out(tokens).unflatten(0, grid.shape[:3])
        return grid.permute(0, 3, 4, 1, 2).flatten(0, 1) + hidden_states


class AnimateDiffTeacher(UNetTeacher):
    """Adapter for AnimateDiffPipeline. Its autoencoder is one of images: a latent frame is a frame."""

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        for module in self._unet.modules():
            if type(module) is AnimateDiffTransformer3D:
                module.__class__ = MotionModule
        self._per_pixel: int = pipeline.vae_scale_factor
        self._most_frames: int = self._unet.config.motion_max_seq_length
        if side := (self._unet.config.sample_size or 0) * self._per_pixel:
            self.family_size = VideoSize(min(USUAL_FRAMES, self._most_frames), side, side)

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The noise, or what else the scheduler says. Schedules end short of pure noise: feed that at t = 1."""
        asked, dtype = self._asked(network)
        z, times = z_t.to(dtype), self._timesteps(z_t, t)
        text = conditions.positive[EMBEDDINGS].to(z_t.device, dtype).repeat_interleave(z_t.shape[2], dim=0)
        others = self._inputs(z, times, text, conditions)
        return asked(z, times, text, return_dict=False, **others)[0].to(z_t.dtype)

    def _inputs(self, z: Tensor, times: Tensor, text: Tensor, conditions: Conditions) -> dict[str, Any]:
        """What else the UNet takes; z is (B, C, F, h, w), times (B,), the text (B F, L, D)."""
        return {}

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames may be any number that the motion modules can count."""
        if not 1 <= num_frames <= self._most_frames:
            raise ValueError(
                f"{num_frames} frames cannot be made: use 1 to {self._most_frames}, the most that the motion "
                "modules tell apart"
            )
        side = lcm(8, self._per_pixel)  # AnimateDiffPipeline refuses what 8 does not divide
        check_sides(height, width, (side, side))
        return self._unet.config.in_channels, num_frames, height // self._per_pixel, width // self._per_pixel

    # --- what its folders may hold

    agreeing = (
        ("vae.latent_channels", "unet.out_channels"),
        ("text_encoder.hidden_size", "unet.cross_attention_dim"),
    )
    # --- what exports ask

    fuses_lora = True  # diffusers names the argument of motion modules' projections, which peft's layers refuse
