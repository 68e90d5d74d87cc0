"""Mochi 1 (genmo/mochi-1-preview): a flow model whose time runs from 0 (noise) to 1000 (data), on nodes of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.transformers.transformer_mochi import MochiTransformerBlock
from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule
from torch import Tensor, nn

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import EMBEDDINGS, Conditions, Tensors
from fewstep.teacher.families.keys import TEXT_MASK
from fewstep.teacher.families.limits import latent_grid
from fewstep.teacher.families.transformer import TransformerTeacher
from fewstep.teacher.schedule import Nodes, Time
from fewstep.teacher.stock import Contract, StockScheduler

THRESHOLD = 0.025  # of the way to the data: MochiPipeline's nodes go it in their first half


class MochiTeacher(TransformerTeacher):
    """Adapter for MochiPipeline.

    A scheduler with `invert_sigmas`, as the published one, gives the denoiser the share of the way that is done as
    its time, and has it predict x0 - eps; without it both are as elsewhere.
    """

    family_fps = 30.0
    padded = frozenset({EMBEDDINGS, TEXT_MASK})
    nodes: Nodes = "linear-quadratic"
    reversed_time = True

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self.family_size = VideoSize(163, pipeline.default_height, pipeline.default_width)  # genmo's own 5.4 seconds

    @property
    def text_limit(self) -> int:
        """The pipeline's own default, whatever the denoiser's config says."""
        return 256

    def embed(self, prompts: list[str]) -> Tensors:
        """With all padding, as zeros, which the mask leaves out.

        One by one: with `force_zeros_for_empty_prompt` an empty last prompt empties all prompts of a call.
        """
        rows = [self._embed_one(prompt) for prompt in prompts]
        embeddings, masks = (torch.cat(tensors) for tensors in zip(*rows, strict=True))
        return {EMBEDDINGS: embeddings, TEXT_MASK: masks}

    def _embed_one(self, prompt: str) -> tuple[Tensor, Tensor]:
        embeddings, mask, _, _ = self.pipeline.encode_prompt(
            [prompt], do_classifier_free_guidance=False, max_sequence_length=self.text_limit, device=self.device
        )
        mask = mask.to(embeddings.dtype)
        return embeddings * mask[..., None], mask

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """The velocity eps - x0."""
        denoiser, dtype = self._denoiser_and_dtype(network)
        output: Tensor = denoiser(
            hidden_states=z_t.to(dtype),
            encoder_hidden_states=conditions.positive[EMBEDDINGS].to(z_t.device, dtype),
            timestep=self._network_time(t).expand(len(z_t)).to(z_t.device, dtype),
            encoder_attention_mask=conditions.positive[TEXT_MASK].to(z_t.device).bool(),
            return_dict=False,
        )[0]
        output = output.to(z_t.dtype)
        return -output if self.schedule.reversed_time else output

    def _network_time(self, t: Time) -> Tensor:
        """The denoiser's number for t, (B,) or (), in float32 as the scheduler computes it.

        The pipeline casts it to what latents and denoiser are in, and bfloat16 makes 274 of 274.99997 and 276 of 275.
        """
        sigma = torch.as_tensor(t, dtype=torch.float32, device="cpu")
        return (1 - sigma if self.schedule.reversed_time else sigma) * self.schedule.num_train_timesteps

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode, normalised per channel."""
        vae = self._part("vae")
        latents: Tensor = vae.encode(video.to(vae.device, vae.dtype)).latent_dist.mode().float()
        mean, std = self._latent_statistics(latents)
        return (latents - mean) * vae.config.scaling_factor / std

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        vae = self._part("vae")
        mean, std = self._latent_statistics(latents)
        latents = latents * std / vae.config.scaling_factor + mean
        video: Tensor = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        return video.float()

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel, (C, 1, 1, 1); those of a config without either are 0 and 1."""
        config = self._part("vae").config
        if config.latents_mean is None or config.latents_std is None:
            return latents.new_zeros(()), latents.new_ones(())
        mean, std = (latents.new_tensor(x).view(-1, 1, 1, 1) for x in (config.latents_mean, config.latents_std))
        return mean, std

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Frames must be 6 k + 1; height and width whole patches, which are of 16 pixels."""
        per_frame, per_pixel = self.pipeline.vae_temporal_scale_factor, self.pipeline.vae_spatial_scale_factor
        side = per_pixel * self._config.patch_size
        return self._config.in_channels, *latent_grid(num_frames, height, width, per_frame, per_pixel, (side, side))

    # --- what its folders may hold

    schedules = (("flow", "flow"),)
    block_classes = (MochiTransformerBlock,)  # diffusers names none
    agreeing = (
        ("vae.latent_channels", "transformer.in_channels"),
        ("text_encoder.d_model", "transformer.text_embed_dim"),
    )

    # --- what exports ask

    def stock_scheduler(self, contract: Contract) -> StockScheduler:
        """FlowMatchEuler with the contract's shift, which takes the nodes that the pipeline passes.

        Raises ValueError for odd numbers of steps, whose nodes are not among those of twice as many.
        """
        if contract.steps % 2:
            single_step = contract.steps == 1
            why = "divides by zero for one step" if single_step else "has other nodes for an odd number of steps"
            raise ValueError(
                f"{type(self.pipeline).__name__} {why} and takes none from its caller, so it cannot sample a student "
                f"of {contract.steps}: sample it with fewstep, or distil one of 2, 4 or 8 steps"
            )
        settings = {"shift": contract.shift, "invert_sigmas": self.schedule.reversed_time}
        return StockScheduler("FlowMatchEulerDiscreteScheduler", settings, from_config=False)

    def stock_timesteps(self, scheduler: Any, contract: Contract) -> Tensor:
        """Its nodes for the sigmas that the pipeline passes."""
        scheduler.set_timesteps(sigmas=np.array(linear_quadratic_schedule(contract.steps, THRESHOLD)))
        return torch.as_tensor(scheduler.timesteps, dtype=torch.float64)
