"""What adapters of Stable Diffusion's UNets share, of images, with motion modules, or of Stable Video Diffusion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel, UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from fewstep.teacher.base import Teacher
from fewstep.teacher.conditions import EMBEDDINGS, Tensors
from fewstep.teacher.pipelines.parts import weight_shapes
from fewstep.teacher.schedule import Prediction, ScheduleKind, Time

UNETS = (UNet2DConditionModel, UNetMotionModel, UNetSpatioTemporalConditionModel)
VAE_AT_ONCE = 16  # images through the autoencoder, as AnimateDiffPipeline does it


class UNetTeacher(Teacher):
    """The half of an adapter that follows from a UNet, CLIP and an autoencoder of images."""

    schedules: tuple[tuple[ScheduleKind, Prediction], ...] = (("vp", "eps"), ("vp", "v"), ("vp", "x0"))
    stops_at_taps = True  # activations that are computed again lie inside blocks

    @classmethod
    def check_folder(cls, folder: Path, index: dict[str, Any]) -> None:
        """Refuses UNets with an IP-Adapter inside, which diffusers saves with their weights and leaves out of what it
        loads again."""
        super().check_folder(folder, index)
        held = weight_shapes(folder / "unet", "diffusers") if any((folder / "unet").glob("*.safetensors")) else {}
        if any(name.startswith("encoder_hid_proj.") or ".processor.to_k_ip." in name for name in held):
            raise ValueError(
                f"the UNet in {folder} was saved with an IP-Adapter in it, which diffusers drops when it loads the "
                "folder: call unload_ip_adapter() before save_pretrained(), and load the adapter into the student's "
                "pipeline"
            )

    @property
    def _unet(self) -> Any:
        return self.pipeline.unet

    @property
    def denoiser(self) -> nn.Module:
        """The UNet."""
        unet: nn.Module = self._unet
        return unet

    @property
    def text_limit(self) -> int:
        """CLIP's 77, as the tokenizer says."""
        return int(self.pipeline.tokenizer.model_max_length)

    def embed(self, prompts: list[str]) -> Tensors:
        """With all its padding: the denoiser was trained to attend to it."""
        embeddings, _ = self.pipeline.encode_prompt(prompts, self.device, 1, False)
        return {EMBEDDINGS: embeddings}

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """Down, middle and up blocks, each with its own channels and resolution: the middle one, which some small UNets
        lack, is registered last and runs before the up blocks."""
        unets = [module for module in network.modules() if isinstance(module, UNETS)]
        candidates = [block for unet in unets for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks)]
        return [block for block in candidates if block is not None]

    def tokens_to_grid(self, tokens: Tensor, z_t: Tensor) -> Tensor:
        """(B F, C, h', w') -> (B, C, F, h', w')."""
        return tokens.unflatten(0, (len(z_t), -1)).transpose(1, 2)

    def encode(self, video: Tensor) -> Tensor:
        """The posterior's mode of each frame, scaled."""
        vae = self._part("vae")
        frames = video.to(vae.device, vae.dtype).transpose(1, 2).flatten(0, 1)
        latents = [vae.encode(part).latent_dist.mode() for part in frames.split(VAE_AT_ONCE)]
        mean, std = self._latent_scale
        return self.tokens_to_grid((torch.cat(latents).float() - mean) * std, video)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`."""
        vae = self._part("vae")
        mean, std = self._latent_scale
        frames = (latents.transpose(1, 2).flatten(0, 1).float() / std + mean).to(vae.dtype)
        decoded = [vae.decode(part).sample for part in frames.split(VAE_AT_ONCE)]
        return self.tokens_to_grid(torch.cat(decoded).float(), latents)

    @property
    def _latent_scale(self) -> tuple[Any, Any]:
        """Mean and inverse deviation of raw latents, numbers or (1, C, 1, 1)."""
        config = self._part("vae").config
        if getattr(config, "latents_mean", None) is None or getattr(config, "latents_std", None) is None:
            return 0.0, config.scaling_factor
        both = torch.tensor([config.latents_mean, config.latents_std], device=self._part("vae").device)
        mean, std = both[..., None, None].unsqueeze(1)
        return mean, config.scaling_factor / std

    def _denoiser_and_dtype(self, network: nn.Module | None) -> tuple[Any, Any]:
        """The network and the dtype that it computes in; a student may be wrapped in something without one."""
        denoiser: Any = self._unet if network is None else network
        return denoiser, getattr(denoiser, "dtype", self._unet.dtype)

    def _timesteps(self, z_t: Tensor, t: Time) -> Tensor:
        """What the network is fed, float32 (B,)."""
        return self.schedule.timestep(t).expand(len(z_t)).to(z_t.device).float()
