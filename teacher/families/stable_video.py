"""Stable Video Diffusion (arXiv 2311.15127), SVD and SVD-XT: clips that begin with an image, and read no text.

An EDM model of continuous noise levels (arXiv 2206.00364): in z = x / sqrt(sigma^2 + 1) it is a v-predicting one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor, nn

from fewstep.teacher.base import VideoSize
from fewstep.teacher.conditions import Conditions, Tensors
from fewstep.teacher.families.limits import check_sides
from fewstep.teacher.families.picture_noise import generator_of
from fewstep.teacher.families.unet import UNetTeacher
from fewstep.teacher.given import Given, to_pil, to_pixels
from fewstep.teacher.schedule import Time
from fewstep.teacher.source import call_defaults
from fewstep.teacher.stock import Contract, StockScheduler

SHOWN = "shown"  # (B, 1): 1 where the branch sees the image, 0 where it sees nothing
TOKEN, LATENT, MICRO = "image_token", "image_latent", "micro"  # (B, 1, D), (B, C, 1, h, w), (B, 3)


class StableVideoTeacher(UNetTeacher):
    """Adapter for StableVideoDiffusionPipeline, whose denoiser takes latents as (B, F, C, h, w).

    Rate, motion bucket and noise on the image are the defaults of the pipeline's call, but for the rate where the
    folder says one. Guidance w means 1 at the first frame to w at the last one, as `max_guidance_scale` does there.
    """

    reads_text, text_limit = False, 0
    takes = needs = ("first",)
    other_encoders = ("image_encoder",)
    family_fps, fed_fps = 7.0, True
    usual_guidance = 3.0  # the pipeline's own at the last frame

    def __init__(self, pipeline: Any, folder: Path) -> None:
        super().__init__(pipeline, folder)
        self._usual = call_defaults(type(pipeline))
        self._per_pixel: int = pipeline.vae_scale_factor
        size = self._usual["height"], self._usual["width"]
        self.family_size = VideoSize(self._unet.config.num_frames, *size)

    def embed(self, prompts: list[str]) -> Tensors:
        """Nothing of the prompts: that the image is seen."""
        return {SHOWN: torch.ones(len(prompts), 1, device=self.device)}

    def unconditional(self, embedded: Tensors) -> Tensors:
        """Neither the image's embedding nor its latents."""
        return {SHOWN: torch.zeros_like(embedded[SHOWN])}

    def encode_given(self, given: Given, size: VideoSize, count: int) -> Tensors:
        """CLIP's embedding of the first frame, its latents as they come, and numbers that pipelines ask for."""
        self._part("image_encoder")
        first = given["first"]
        pictures = [to_pil(picture, "first") for picture in first]
        # the pipeline puts noise on the image: here it follows from the image, so that every call sees the same
        noise = torch.stack([torch.randn(picture.shape, generator=generator_of(picture)) for picture in first])
        noisy = to_pixels(first) + self._micro["noise_aug_strength"] * noise.to(first.device)
        # the pipeline hands over fps - 1, as the model was trained with
        micro = torch.tensor([[self._micro["fps"] - 1, *list(self._micro.values())[1:]]], dtype=torch.float32)
        return {
            TOKEN: self.pipeline._encode_image(pictures, self.device, 1, False).float(),
            LATENT: self.encode(noisy) / self._part("vae").config.scaling_factor,  # as the pipeline has it: unscaled
            MICRO: micro.to(self.device).expand(count, -1),
        }

    @property
    def _micro(self) -> dict[str, float]:
        """What the pipeline's call takes besides the image, in the order of the denoiser's further embeddings."""
        usual = {name: self._usual[name] for name in ("motion_bucket_id", "noise_aug_strength")}
        return {"fps": round(self.default_fps()), **usual}

    def predict(self, z_t: Tensor, t: Time, conditions: Conditions, network: nn.Module | None = None) -> Tensor:
        """v = alpha eps - sigma x0."""
        denoiser, dtype = self._denoiser_and_dtype(network)
        shown, shared = conditions.positive[SHOWN], conditions.shared
        # the unconditional branch sees zeros in place of the image's latents and embedding
        latent = (shared[LATENT] * shown.view(-1, 1, 1, 1, 1)).to(z_t).expand_as(z_t)
        output = denoiser(
            torch.cat([z_t, latent], dim=1).transpose(1, 2).to(dtype),
            self._timesteps(z_t, t),
            (shared[TOKEN] * shown[:, :, None]).to(z_t.device, dtype),
            shared[MICRO].to(z_t.device, dtype),
            return_dict=False,
        )[0]
        return output.transpose(1, 2).to(z_t.dtype)

    def spread_guidance(self, weight: Tensor, z_t: Tensor) -> Tensor:
        """From 1 at the first frame to the weight at the last."""
        frames = torch.linspace(0, 1, z_t.shape[2], device=weight.device, dtype=weight.dtype)
        return 1 + (weight - 1) * frames.view(1, 1, -1, 1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """The inverse of `encode`, all frames of a clip at once, as the pipeline does it."""
        dtype, frames = self._part("vae").dtype, latents.shape[2]
        video: Tensor = self.pipeline.decode_latents(latents.transpose(1, 2).to(dtype), frames, frames)
        return video

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """A latent frame is a frame; sides are multiples of 8."""
        if num_frames < 1:
            raise ValueError(
                f"{num_frames} frames cannot be made: use 1 or more, such as {self._unet.config.num_frames}"
            )
        check_sides(height, width, (max(8, self._per_pixel),) * 2)  # the pipeline refuses what 8 does not divide
        return self._unet.config.out_channels, num_frames, height // self._per_pixel, width // self._per_pixel

    # --- what its folders may hold

    schedules = (("edm", "v"),)
    agreeing = (
        ("vae.latent_channels", "unet.out_channels"),
        ("image_encoder.projection_dim", "unet.cross_attention_dim"),
    )

    # --- what exports ask

    given_arguments = MappingProxyType({"first": "image"})

    def stock_scheduler(self, contract: Contract) -> StockScheduler:
        """Its own, which takes the student's noise levels from the call."""
        if not isinstance(self.pipeline.scheduler, EulerDiscreteScheduler):
            kind = type(self.pipeline.scheduler).__name__
            raise ValueError(f"{kind} takes no noise levels from the pipeline's call: sample the student with fewstep")
        return StockScheduler(EulerDiscreteScheduler.__name__, {}, from_config=True)

    def stock_timesteps(self, scheduler: Any, contract: Contract) -> Tensor:
        """Of the noise levels that the call passes."""
        scheduler.set_timesteps(sigmas=self._sigmas(contract))
        return torch.as_tensor(scheduler.timesteps, dtype=torch.float64)

    def stock_rounding(self, contract: Contract) -> float:
        """Of EulerDiscrete, which keeps noise at its full scale: the last step takes it away in single precision, from
        700 times the latents where there is but one."""
        return 2.0**-22 * self._sigmas(contract)[-2]

    def call_arguments(self, contract: Contract, given: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
        """With the student's noise levels, and the noise that `encode_given` put on the image."""
        arguments = super().call_arguments(contract, given)
        weight = arguments.pop("guidance_scale")
        arguments |= {"sigmas": self._sigmas(contract), "min_guidance_scale": 1.0, "max_guidance_scale": weight}
        arguments |= self._micro
        return arguments | ({"generator": generator_of(given["first"][0])} if given else {})

    def to_pipeline(self, z: Tensor) -> Tensor:
        """(B, F, C, h, w)."""
        return z.transpose(1, 2)

    def from_pipeline(self, latents: Tensor, shape: Sequence[int]) -> Tensor:
        """The same back; without `return_dict` this pipeline gives no tuple, so its first item is a clip."""
        clips = latents.unflatten(0, (-1, shape[2])) if latents.ndim == 4 else latents
        return clips.transpose(1, 2)

    def _sigmas(self, contract: Contract) -> list[float]:
        """Noise over data at the student's nodes, 0 at the end."""
        times = torch.tensor(contract.times, dtype=torch.float64)
        return (self.schedule.sigma(times) / self.schedule.alpha(times)).tolist()
