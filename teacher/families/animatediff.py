"""AnimateDiff text-to-video (arXiv 2307.04725): an eps-predicting Stable Diffusion UNet with motion modules."""

from __future__ import annotations

from math import lcm
from pathlib import Path
from typing import Any

import torch
from diffusers import UNetMotionModel
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from fewstep.teacher.base import Teacher, VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.limits import check_sides
from fewstep.teacher.schedule import Time

USUAL_FRAMES = 16  # what motion modules are trained with
FRAMES_AT_ONCE = 16  # through the autoencoder, as AnimateDiffPipeline does it


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


class AnimateDiffTeacher(Teacher):
    """Adapter for AnimateDiffPipeline. Its autoencoder is one of images: a latent frame is a frame."""

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._unet: Any = pipeline.unet
        for module in self._unet.modules():
            if type(module) is AnimateDiffTransformer3D:
                module.__class__ = MotionModule
        self._per_pixel: int = pipeline.vae_scale_factor
        self._most_frames: int = self._unet.config.motion_max_seq_length
        if side := (self._unet.config.sample_size or 0) * self._per_pixel:
            self.family_size = VideoSize(min(USUAL_FRAMES, self._most_frames), side, side)

    @property
    def text_limit(self) -> int:
        """CLIP's 77, as the tokenizer says."""
        return int(self.pipeline.tokenizer.model_max_length)

    def embed(self, prompts: list[str]) -> Tensors:
        """With all its padding: the denoiser was trained to attend to it."""
        (embeddings, _) = self.pipeline.encode_prompt(
            prompts, self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {EMBEDDINGS: embeddings}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The noise, or what else the scheduler says. Schedules end short of pure noise: feed that at t = 1."""
        asked: Any = network or self._unet
        dtype = getattr(asked, "dtype", self._unet.dtype)
        timestep = self.schedule.timestep(t).expand(len(z_t)).to(z_t.device, torch.float32)
        text = conditions.positive[EMBEDDINGS].to(z_t.device, dtype).repeat_interleave(z_t.shape[2], dim=0)
        return asked(z_t.to(dtype), timestep, text, return_dict=False)[0].to(z_t.dtype)

    @property
    def denoiser(self) -> nn.Module:
        """The UNet with its motion modules."""
        found: nn.Module = self._unet
        return found

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """Down, middle and up blocks, each with its own channels and resolution."""
        unets = [module for module in network.modules() if isinstance(module, UNetMotionModel)]
        return [block for unet in unets for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)]

    def tokens_to_grid(self, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B F, C, h', w') -> (B, C, F, h', w')."""
        return tokens.unflatten(0, (len(z_t), -1)).transpose(1, 2)

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode of each frame, scaled."""
        vae = self._part("vae")
        frames = video.to(vae.device, vae.dtype).transpose(1, 2).flatten(0, 1)
        latents = torch.cat([vae.encode(part).latent_dist.mode() for part in frames.split(FRAMES_AT_ONCE)])
        return self.tokens_to_grid(latents.float(), video) * vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        vae = self._part("vae")
        return self.pipeline.decode_latents(latents.to(vae.dtype), FRAMES_AT_ONCE)

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

    schedules = (("vp", "eps"), ("vp", "v"), ("vp", "x0"))
    agreeing = (
        ("vae.latent_channels", "unet.out_channels"),
        ("text_encoder.hidden_size", "unet.cross_attention_dim"),
    )
    # --- what exports ask

    fuses_lora = True  # diffusers names the argument of motion modules' projections, which peft's layers refuse
