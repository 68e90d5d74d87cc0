"""AnimateDiff text-to-video (arXiv 2307.04725): an eps-predicting Stable Diffusion UNet with motion modules."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import lcm
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusers import AnimateDiffPipeline, MotionAdapter
from diffusers.models.unets.unet_motion_model import AnimateDiffTransformer3D
from torch import Tensor, nn

from fewstep.teacher.base import VideoSize
from fewstep.teacher.bases import Bases, part_state
from fewstep.teacher.conditions import EMBEDDINGS, Conditions
from fewstep.teacher.families.limits import check_sides
from fewstep.teacher.families.unet import UNetTeacher
from fewstep.teacher.schedule import Time

_AUTHORS = (  # a motion module's names in diffusers -> its authors'
    (".norm1", ".norms.0"),
    (".norm2", ".norms.1"),
    (".norm3", ".ff_norm"),
    (".attn1", ".attention_blocks.0"),
    (".attn2", ".attention_blocks.1"),
)
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
        """(B F, C, h, w) -> the same, as in diffusers, where the arguments that are None here are None too.

        In the precision of its own weights: where it alone is trained, these are float32 among others in bfloat16.
        """
        images = hidden_states.to(self.norm.weight.dtype)
        # attention over frames: each place (b, h, w) is a sequence of its F values
        grid = self.norm(images.unflatten(0, (-1, num_frames)).transpose(1, 2)).permute(0, 3, 4, 2, 1)
        tokens = self.proj_in(grid.flatten(0, 2))  # (B h w, F, C)
        for block in self.transformer_blocks:
            tokens = block(tokens)
        grid = self.proj_out(tokens).unflatten(0, grid.shape[:3])
        return (grid.permute(0, 3, 4, 1, 2).flatten(0, 1) + images).to(hidden_states.dtype)


class AnimateDiffTeacher(UNetTeacher):
    """Adapter for AnimateDiffPipeline. Its autoencoder is one of images: a latent frame is a frame."""

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        # in place, so that weights and their names stay those of diffusers
        for module in self._unet.modules():
            if type(module) is AnimateDiffTransformer3D:
                module.__class__ = MotionModule
        self._per_pixel: int = pipeline.vae_scale_factor
        self._most_frames: int = self._unet.config.motion_max_seq_length
        if side := (self._unet.config.sample_size or 0) * self._per_pixel:
            self.family_size = VideoSize(min(USUAL_FRAMES, self._most_frames), side, side)

    def take(self, names: Sequence[str]) -> None:
        """A reference would need an IP-Adapter."""
        if "reference" in names:
            raise ValueError(
                f"an {type(self.pipeline).__name__} shows a reference by an IP-Adapter only, which diffusers loads "
                "separately from a pipeline, so that no student can be trained with one: leave reference out, and "
                "load the adapter into the student's pipeline, or use a teacher that takes references itself"
            )
        super().take(names)

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The noise, or what else the scheduler says. Schedules end short of pure noise: feed that at t = 1."""
        denoiser, dtype = self._denoiser_and_dtype(self.denoiser if network is None else network)
        if isinstance(denoiser, Bases):
            return self.ask_experts(denoiser, z_t, t, conditions)
        z, times = z_t.to(dtype), self._timesteps(z_t, t)
        # to the UNet each frame is an image, under the text of its clip
        text = conditions.positive[EMBEDDINGS].to(z_t.device, dtype).repeat_interleave(z_t.shape[2], dim=0)
        others = self._inputs(z, times, text, conditions)
        return denoiser(z, times, text, return_dict=False, **others)[0].to(z_t.dtype)

    def _inputs(self, z: Tensor, times: Tensor, text: Tensor, conditions: Conditions) -> dict[str, Any]:
        """What else the UNet takes; z is (B, C, F, h, w), times (B,), the text (B F, L, D)."""
        return {}

    @property
    def denoiser(self) -> nn.Module:
        """The UNet with its motion modules, or those of several base models."""
        return super().denoiser if self.bases is None else self.bases

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames may be any number that the motion modules can count."""
        if not 1 <= num_frames <= self._most_frames:
            raise ValueError(
                f"{num_frames} frames cannot be made: use 1 to {self._most_frames}, the most that the motion modules "
                "support"
            )
        side = lcm(8, self._per_pixel)  # AnimateDiffPipeline refuses what 8 does not divide
        check_sides(height, width, (side, side))
        return self._unet.config.in_channels, num_frames, height // self._per_pixel, width // self._per_pixel

    # --- what its folders may hold

    agreeing = (
        ("vae.latent_channels", "unet.out_channels"),
        ("text_encoder.hidden_size", "unet.cross_attention_dim"),
    )

    # --- what may be trained alone, around which base models

    subsets = MappingProxyType({"motion": (AnimateDiffTransformer3D,)})
    base_classes: tuple[str, ...] = ("StableDiffusionPipeline",)

    def with_base(self, parts: Mapping[str, Any]) -> Any:
        """Its images, texts and autoencoder, our motion."""
        own = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet")}
        adapter = self.shared_part(super().denoiser)
        pipeline: Any = AnimateDiffPipeline
        return pipeline(**own, motion_adapter=adapter, scheduler=self.pipeline.scheduler)

    # --- what exports ask

    def shared_part(self, network: Any) -> Any:
        """The motion modules as a MotionAdapter, which has the UNet's own names."""
        config = network.config
        adapter: Any = MotionAdapter(
            block_out_channels=config["block_out_channels"],
            motion_layers_per_block=config["layers_per_block"],
            motion_transformer_layers_per_block=config["temporal_transformer_layers_per_block"],
            motion_mid_block_layers_per_block=config["mid_block_layers"],
            motion_transformer_layers_per_mid_block=config["temporal_transformer_layers_per_mid_block"],
            motion_norm_num_groups=config["norm_num_groups"],
            motion_num_attention_heads=config["motion_num_attention_heads"],
            motion_max_seq_length=config["motion_max_seq_length"],
            use_motion_mid_block=config["use_motion_mid_block"],
        )
        # motion modules alone: what else the UNet has belongs to the base model
        adapter.load_state_dict({n: x.detach() for n, x in part_state(network, self.subsets["motion"]).items()})
        return adapter

    def put_part(self, pipe: Any, part: Any) -> None:
        """Into the UNet of a pipeline that has motion modules already."""
        pipe.unet.load_motion_modules(part)

    shared_with = "AnimateDiff's extensions of ComfyUI and A1111"

    def part_file(self, part: Any) -> dict[str, Tensor]:
        """A motion module as its authors name it; each attention has the table of positions, which a block has here."""
        tensors: dict[str, Tensor] = {}
        for name, tensor in part.state_dict().items():
            if name.endswith(".pos_embed.pe"):
                block = _authors_name(name.removesuffix("pos_embed.pe"))
                tensors |= {f"{block}attention_blocks.{i}.pos_encoder.pe": tensor.clone() for i in (0, 1)}
            else:
                tensors[_authors_name(name)] = tensor
        return tensors

    part_code = "pipe.unet.load_motion_modules(part)"
    fuses_lora = True  # diffusers names the argument of motion modules' projections, which peft's layers refuse


def _authors_name(name: str) -> str:
    place, module, inner = re.split(r"(motion_modules\.\d+\.)", name, maxsplit=1)
    for ours, theirs in _AUTHORS:
        inner = inner.replace(ours, theirs)
    return f"{place}{module}temporal_transformer.{inner}"
